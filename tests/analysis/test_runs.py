"""Runs and signals as tables say what the records say."""

import numpy as np
import pytest
from factories import make_result

from kvhelpers import frames
from kvhelpers.analysis.analyse import analyse
from kvhelpers.analysis.runs import instructive_run, run_tokens, signal_arrays
from kvhelpers.errors import InputError
from kvhelpers.experiment.grid import finished_results
from kvhelpers.paths import samples_dir
from kvhelpers.records import FailureMode

SAMPLE = "002-compression-sweep"


def test_runs_and_signals_of_the_sample():
    results = finished_results(SAMPLE, samples_dir())
    runs, arrays = frames.runs(results), signal_arrays(results, ["entropy"])["entropy"]
    assert len(runs) == len(arrays) == sum(result.summary.n for result in results)
    assert (np.isfinite(arrays).sum(1) == runs["tokens"]).all()
    first = results[0].signals(["prompt_index", "entropy"])
    assert arrays[0, : runs["tokens"][0]] == pytest.approx(
        first.loc[first["prompt_index"] == 0, "entropy"].to_numpy()
    )
    assert runs.groupby("condition", sort=False)["looping"].sum().tolist() == [
        result.summary.looping.count for result in results
    ]
    assert (runs["onset"].notna() == runs["looping"]).all()


def test_a_row_says_what_became_of_the_run():
    stops = {1: "error", 2: "stop_string", 3: "max_new_tokens"}
    result = make_result("knorm", 0.25, [True, False, True, False], {0: 7}, stops=stops)
    runs = frames.runs([result])
    assert runs["errored"].tolist() == [False, True, False, False]
    assert runs["ended"].tolist() == [False, False, True, False]
    assert runs["onset"].tolist()[0] == 7 and runs["onset"].isna().tolist() == [False, True, True, True]
    assert runs["removed"].tolist() == pytest.approx([0.25] * 4) and set(runs["condition"]) == {"knorm 0.25"}
    modes = [FailureMode.LOOPING, FailureMode.ERRORED, FailureMode.CORRECT, FailureMode.NON_TERMINATION]
    assert runs["mode"].tolist() == modes


def test_conditions_whose_flags_invalidate_them_are_left_out_but_counted():
    flagged = make_result("snapkv", 0.5, [False] * 8, {0: 5, 1: 7}, flags=["kept_within_window"])
    found = analyse([make_result("none", 0.0, [True] * 8), flagged])
    assert found.left_out == ["snapkv 0.5"] and len(found.runs) == 16
    assert not len(found.aligned["entropy"]) and set(found.discriminators["n"]) == {8}
    weak = analyse([make_result("none", 0.0, [False] * 8), make_result("knorm", 0.5, [False] * 8, {0: 5})])
    assert weak.left_out == []  # a weak baseline takes the meaning out of accuracies, not out of loops


def test_the_run_to_look_at_is_of_a_condition_that_means_something():
    late = make_result("snapkv", 0.5, [False] * 3, {1: 20}, flags=["kept_within_window"])
    early = make_result("knorm", 0.5, [False] * 3, {2: 5})
    result, record = instructive_run([make_result("none", 0.0, [True] * 3), early, late])
    assert (result.label, record.prompt_index, record.onset) == ("knorm 0.5", 2, 5)
    result, record = instructive_run([late])
    assert (result.label, record.onset) == ("snapkv 0.5", 20)


def test_a_run_s_pieces_are_its_text():
    result = make_result("knorm", 0.5, [True, True], text="Eva has 5.", entropy={1: [1.0] * 20})
    tokens = run_tokens(result, result.records[1])
    assert "".join(tokens["piece"]) == "Eva has 5." and tokens["step"].tolist() == list(range(20))


@pytest.mark.parametrize("quantiles", [[0.5], [0.9, 1], [1.5], "high", 0.99, [True], [], None])
def test_quantiles_that_are_none_are_refused(quantiles):
    with pytest.raises(
        InputError, match=r"quantiles .* is not allowed; it is a list of shares of the uncompressed tokens"
    ):
        analyse([make_result("none", 0.0, [True])], quantiles)


@pytest.mark.parametrize("name", ["../elsewhere", "", 5, None])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(InputError, match="experiment .* is not allowed"):
        finished_results(name)
