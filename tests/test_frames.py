"""The frames say what the records say; rows of the long frame say what scipy does."""

import numpy as np
import pandas as pd
import pytest
from factories import make_result
from scipy.stats import binomtest

from kvhelpers import frames
from kvhelpers.errors import InputError
from kvhelpers.experiment.grid import finished_results
from kvhelpers.paths import REPOSITORY, samples_dir
from kvhelpers.stats import adjusted, mean

SAMPLE = "007-question-position"


@pytest.fixture(scope="module")
def results():
    return finished_results(SAMPLE, samples_dir())


@pytest.fixture(scope="module")
def runs(results):
    return frames.runs(results)


def test_each_run_stands_beside_the_same_prompt_without_compression(runs):
    """In 007 question-first prompts, and other examples, have uncompressed runs of their own."""
    assert runs["run"].is_unique
    by_key = runs.set_index("run")
    other = by_key.loc[runs["baseline"]]
    for name in ("prompt", "setting", "experiment"):
        assert (other[name].to_numpy() == runs[name].to_numpy()).all()
    assert set(other["press"]) == {"none"}
    assert runs["baseline_correct"].tolist() == other["correct"].tolist()
    assert runs["baseline_looping"].tolist() == other["looping"].tolist()
    own = runs[runs["press"] == "none"]
    assert (own["baseline"] == own["run"]).all()


def test_a_condition_s_rates_and_parts_are_its_rows(results, runs):
    assert list(dict.fromkeys(runs["condition"])) == [result.label for result in results]
    for result in results:
        part = runs[runs["condition"] == result.label]
        assert (part["correct"].sum(), part["catastrophic"].sum()) == (
            result.summary.accuracy.count,
            result.summary.cfr.count,
        )
        assert set(part["question_position"]) == {result.condition.question_position}
        assert set(part["dtype"]) == {"float32"} and set(part["valid"]) == {not result.is_invalid}
        assert part["kept_tokens"].mean() == pytest.approx(result.summary.kept_tokens)


def test_without_an_uncompressed_run_there_is_no_baseline():
    runs = frames.runs([make_result("knorm", 0.5, [True, False])])
    assert runs["baseline"].isna().all() and runs["baseline_correct"].isna().all()
    assert not runs["weak_baseline"].any()


def test_a_weak_baseline_is_told_of_every_run_beside_it():
    runs = frames.runs(
        [make_result("none", 0.0, [True] * 5 + [False] * 3), make_result("knorm", 0.5, [True] * 8)]
    )
    assert runs["weak_baseline"].all() and runs["valid"].all()
    assert runs["baseline_correct"].tolist() == 2 * ([True] * 5 + [False] * 3)


def test_tokens_have_the_key_of_their_run(results, runs):
    tokens = frames.tokens(results, ["entropy"])
    assert tokens["run"].value_counts().to_dict() == runs.set_index("run")["tokens"].to_dict()
    whole = frames.tokens(results[:2])
    assert {"entropy", "top1_prob", "token_id"} <= set(whole)
    of_first = results[0].signals()
    assert whole["entropy"].tolist()[: len(of_first)] == of_first["entropy"].tolist()


def test_signals_of_another_length_than_the_run_s_are_refused():
    result = make_result("knorm", 0.5, [True, True])
    result._frame = result._frame[1:]
    with pytest.raises(InputError, match=r"has 29 tokens of prompt .*, its results say 30"):
        frames.tokens([result])


def test_rows_have_the_columns_of_the_long_frame_and_scipy_s_numbers():
    draw = np.random.default_rng(0)
    first, second = draw.random(60) < 0.5, draw.random(60) < 0.7
    rows = [
        frames.rate_row("how often", "knorm 0.5", "right", int(first.sum()), 60),
        frames.difference_row("what changes", "knorm 0.5", "right", first, second),
        frames.bootstrap_row("how often", "knorm 0.5", "right", mean(first), list(map(str, range(60)))),
        frames.bootstrap_row("of nothing", "knorm 0.5", "right", mean(first[:0]), []),
    ]
    table = frames.long_frame(rows)
    assert list(table) == list(frames.LONG)
    wilson = binomtest(int(first.sum()), 60).proportion_ci(method="wilson")
    assert table.loc[0, ["low", "high"]].tolist() == [wilson.low, wilson.high]
    assert table["estimate"].tolist()[:3] == pytest.approx(
        [first.mean(), second.mean() - first.mean(), first.mean()]
    )
    lost, won = (first & ~second).sum(), (second & ~first).sum()
    assert table["q"][1] == pytest.approx(binomtest(lost, lost + won).pvalue)
    assert table.loc[2, "low"] < first.mean() < table.loc[2, "high"] and table.loc[2, "prompts"] == 60
    assert table.loc[3, ["estimate", "low", "n", "verdict"]].isna().all()


@pytest.mark.parametrize(
    ("low", "high", "margin", "q", "said"),
    [
        (0.01, 0.2, 0, None, "higher"),
        (-0.2, -0.01, 0, 0.04, "lower"),
        (-0.2, -0.01, 0, 0.05, "undecided"),
        (-0.01, 0.2, 0.05, None, "undecided"),
        (-0.02, 0.02, 0.02, None, "none seen"),
        (0.0, 0.0, 0, None, "none seen"),
        (None, None, 0, None, "undecided"),
        (float("nan"), float("nan"), 1, None, "undecided"),
    ],
)
def test_a_verdict_is_the_interval_s(low, high, margin, q, said):
    assert frames.verdict(low, high, margin, q) == said


def test_frames_of_several_experiments_stand_under_each_other(results):
    other = finished_results("008-gsm-symbolic", samples_dir())
    both = frames.runs([*other, *results])
    pd.testing.assert_frame_equal(both[: -sum(r.summary.n for r in results)], frames.runs(other))
    assert both["run"].is_unique


def committed(part):
    return pd.read_csv(REPOSITORY / "figures" / SAMPLE / f"{part}.csv", keep_default_na=False, na_values="")


def agree(made, table, columns):
    for ours, theirs in columns.items():
        assert made[ours].astype(float).tolist() == pytest.approx(
            table[theirs].tolist(), abs=5.1e-7, nan_ok=True
        )


def test_the_committed_rates_are_a_line_of_pandas_on_the_runs(runs):
    table = committed("conditions")
    outcomes = runs.assign(
        accuracy=runs["correct"],
        cfr=runs["catastrophic"],
        format_lost=runs["flexible"] & runs["strict_answer"].isna(),
        right_unended=~runs["wrong_answer"] & ~runs["ended"],
        loop_ended=runs["looping"] & runs["ended"],
        loop_left=runs["looping"] & ~runs["catastrophic"],
    )
    made = frames.long_frame(
        [
            frames.rate_row(SAMPLE, label, name, int(part[name].sum()), len(part))
            for label, part in outcomes.groupby("condition", sort=False)
            for name in table["outcome"].unique()
        ]
    )
    assert made["subject"].tolist() == table["condition"].tolist()
    agree(made, table, {"estimate": "rate", "low": "low", "high": "high", "n": "n"})


def test_the_committed_comparisons_are_those_of_runs_with_their_baselines(runs):
    table = committed("comparisons")
    never = (runs["looping"] | runs["non_termination"]).set_axis(runs["run"])
    rows = []
    for label, part in runs[runs["press"] != "none"].groupby("condition", sort=False):
        rows.append(
            frames.difference_row(SAMPLE, label, "accuracy", part["baseline_correct"], part["correct"])
        )
        pair = never[part["baseline"]], never[part["run"]]
        rows.append(frames.difference_row(SAMPLE, label, "loops or does not end", *pair))
    made = frames.long_frame(rows)
    assert made["subject"].tolist() == table["condition"].tolist()
    agree(made, table, {"estimate": "difference", "low": "low", "high": "high", "n": "n", "q": "p"})
    assert adjusted(made["q"]) == pytest.approx(table["q"].tolist(), abs=5.1e-7)


def test_the_committed_means_of_signals_are_those_of_tokens_by_run(results):
    table = committed("signals").set_index(["condition", "signal"])
    tokens = frames.tokens(results, ["entropy"])
    means = tokens.groupby(["condition", "prompt"], sort=False)["entropy"].mean()
    for label, part in means.groupby("condition"):
        made = frames.bootstrap_row(SAMPLE, label, "mean entropy", mean(part), part.index.get_level_values(1))
        said = table.loc[label, "mean entropy"]
        assert [made["estimate"], made["low"], made["high"]] == pytest.approx(
            said[["mean", "low", "high"]], abs=1e-6
        )
