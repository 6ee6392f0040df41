"""Tables of a study: what is shown where there is a number, and where there is none."""

from dataclasses import replace

import pytest
from factories_risk import make_looping_study

from kvhelpers.hazard.baselines import PROPOSED, TREES
from kvhelpers.report.format import estimate, share
from kvhelpers.report.hazard_tables import (
    POOLED,
    RUNS_WITHIN,
    WITHIN,
    alarms_table,
    events_table,
    highest_rate,
    metrics_table,
    number_tables,
    results_table,
)
from kvhelpers.stats import TokenMetrics

NOTHING = TokenMetrics(None, None, None, None, None, 0, 0)


@pytest.fixture(scope="module")
def study():
    return make_looping_study()[0]


def test_results_are_of_tokens_and_of_runs_at_the_highest_rate(study):
    rows = results_table(study).set_index("Predictor")
    assert list(rows.index) == list(study.methods)
    by_rate = study.alarms[PROPOSED]
    assert highest_rate(by_rate).wanted == max(alarms.wanted for alarms in by_rate) == 0.1
    assert rows.loc[PROPOSED, WITHIN] == estimate(study.methods[PROPOSED].auroc_within)
    assert rows.loc[PROPOSED, "Failures caught"] == share(by_rate[-1].caught)
    assert rows.loc[PROPOSED, RUNS_WITHIN] == estimate(study.runs_within[PROPOSED])
    assert set(rows.loc[TREES, ["False alarms", "Failures caught", "Lead, tokens"]]) == {"–"}


def test_numbers_that_are_none_leave_their_place_empty(study):
    silent = study.alarms["entropy"][0].model_copy(update={"lead": (), "caught": None})
    bare = {"methods": {PROPOSED: NOTHING}, "alarms": {"x": (silent,)}, "caught_above": {"x": (None,)}}
    bare = study.model_copy(
        update=bare | {"settings": replace(study.settings, false_alarms=(silent.wanted,))}
    )
    tables = number_tables(bare)
    assert len(tables["predictors"]) == 5 and tables["predictors"]["estimate"].isna().all()
    assert tables["caught_differences"]["estimate"].isna().all()
    by_metric = tables["alarms"].set_index("metric")["estimate"]
    assert by_metric.isna().tolist() == [False, False, True, True, True, True]


def test_tables_have_a_dash_where_there_is_no_number(study):
    (row,) = metrics_table({"x": NOTHING}, "Predictor").to_dict("records")
    assert row == {
        "Predictor": "x",
        **dict.fromkeys((WITHIN, POOLED, "AUPRC", "Base rate", "Brier"), "–"),
        "Tokens": 0,
        "of them positive": 0,
    }
    silent = study.alarms["entropy"][0].model_copy(update={"lead": (), "caught": None, "wanted": 0.01})
    (row,) = alarms_table({"x": (silent,)}).to_dict("records")
    assert row["False alarms wanted"] == "1 %" and row["Lead, tokens"] == "–"
    assert row["Failures caught"] == "–"
    led = silent.model_copy(update={"lead": (1, 2, 3, 4, 5)})
    assert alarms_table({"x": (led,)})["Lead, tokens"][0] == "3 (2, 4)"


def test_events_are_counted_by_task_and_press(study):
    table = events_table(study.data)
    assert list(table) == ["Task", "Press", "Runs", "loop", "overrun", "end", "censored", "no token at risk"]
    assert table[["loop", "overrun", "end", "censored"]].sum(axis=1).tolist() == table["Runs"].tolist()
