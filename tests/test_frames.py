"""The frames say what the records say; rows of the long frame say what scipy does."""

import numpy as np
import pandas as pd
import pytest
from factories import make_result
from scipy.stats import binomtest

from kvhelpers import frames
from kvhelpers.errors import InputError
from kvhelpers.experiment.grid import finished_results
from kvhelpers.paths import samples_dir
from kvhelpers.stats import mean

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
    first = draw.random(60) < 0.5
    rows = [
        frames.rate_row("how often", "knorm 0.5", "right", int(first.sum()), 60),
        frames.bootstrap_row("how often", "knorm 0.5", "right", mean(first), list(map(str, range(60)))),
        frames.bootstrap_row("of nothing", "knorm 0.5", "right", mean(first[:0]), []),
    ]
    table = frames.long_frame(rows)
    assert list(table) == list(frames.LONG)
    wilson = binomtest(int(first.sum()), 60).proportion_ci(method="wilson")
    assert table.loc[0, ["low", "high"]].tolist() == [wilson.low, wilson.high]
    assert table["estimate"].tolist()[:2] == pytest.approx([first.mean()] * 2)
    assert table.loc[1, "low"] < first.mean() < table.loc[1, "high"] and table.loc[1, "prompts"] == 60
    assert table.loc[2, ["estimate", "low", "n", "verdict"]].isna().all()


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


def test_the_tokens_of_a_sample_are_as_many_as_its_runs_say():
    results = finished_results("002-compression-sweep", samples_dir())
    runs = frames.runs(results)
    counted = frames.tokens(results, ["entropy"]).groupby("run")["entropy"].count()
    assert counted.reindex(runs["run"]).tolist() == runs["tokens"].tolist()
    looping = runs.groupby("condition", sort=False)["looping"].sum().tolist()
    assert looping == [result.summary.looping.count for result in results]
    assert (runs["onset"].notna() == runs["looping"]).all()


def test_a_row_says_what_became_of_the_run():
    stops = {1: "error", 2: "stop_string", 3: "max_new_tokens"}
    result = make_result("knorm", 0.25, [True, False, True, False], {0: 7}, stops=stops)
    runs = frames.runs([result])
    assert runs["errored"].tolist() == [False, True, False, False]
    assert runs["ended"].tolist() == [False, False, True, False]
    assert runs["onset"].tolist()[0] == 7 and runs["onset"].isna().tolist() == [False, True, True, True]
    assert runs["removed"].tolist() == pytest.approx([0.25] * 4) and set(runs["condition"]) == {"knorm 0.25"}
    assert runs["mode"].tolist() == ["looping", "errored", "correct", "non-termination"]


@pytest.mark.parametrize("name", ["../elsewhere", "", 5, None])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(InputError, match="experiment .* is not allowed"):
        finished_results(name)


def test_a_quantized_run_stands_beside_the_one_whose_cache_is_held_in_full(output):
    right = [True] * 4
    made = [
        make_result("none", 0.0, [False] * 4, cache_type_k="q4_0"),
        make_result("knorm", 0.5, right, cache_type_v="q8_0", cache_kwargs={"rotate": True}),
        make_result("none", 0.0, right),
    ]
    table = frames.runs(made)
    assert set(table["baseline"].str.partition("/p/")[0]) == {"made/none"}
    assert table["baseline_correct"].all()
    assert frames.uncompressed(table).tolist() == [False] * 8 + [True] * 4
    assert table["cache_kwargs"].tolist()[4] == '{"rotate": true}'
    assert table["condition"].unique().tolist() == [
        "none (K q4_0)",
        "knorm 0.5 (V q8_0, rotate=True)",
        "none",
    ]
