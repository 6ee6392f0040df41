"""The tables beside the figures hold what the log says, as numbers."""

import pandas as pd
import pytest
from factories import make_result, make_sweep

from kvhelpers.analysis.analyse import analyse
from kvhelpers.experiment.grid import Contrast, Experiment
from kvhelpers.report.frames import log_frames, modes_frame, save_frames
from kvhelpers.report.log import make_numbers
from kvhelpers.scoring.summary import ENDINGS, RATES


@pytest.fixture(scope="module")
def frames():
    results = make_sweep()
    contrast = Contrast(about="Same", first="knorm 0.5", second="tova 0.5")
    spec = Experiment(name="made", objective="To see.", grid=[{"press": "none"}], contrasts=[contrast])
    return make_numbers(results, spec, analyse(results)).frames


def test_conditions_have_a_row_for_each_rate(frames):
    rows = frames["conditions"].set_index(["condition", "outcome"])
    assert len(rows) == 4 * (len(RATES) + len(ENDINGS) - 1)
    assert rows.loc[("knorm 0.25", "accuracy"), ["count", "n", "rate"]].tolist() == [19, 20, 0.95]
    assert rows.loc[("knorm 0.5", "looping"), "rate"] == 1 and rows["valid"].all()
    assert rows.loc[("knorm 0.5", "looping"), "kept_tokens"] == 50


def test_tests_name_both_sides(frames):
    rows = frames["comparisons"].set_index(["condition", "outcome"])
    lost = rows.loc[("knorm 0.5", "accuracy")]
    assert (lost["difference"], lost["only_first"], lost["verdict"]) == (-1, 20, "lower")
    contrast = frames["contrasts"].set_index("outcome").loc["looping"]
    assert (contrast["compared"], contrast["with"], contrast["difference"]) == ("knorm 0.5", "tova 0.5", 1)
    pair = frames["looping_pairs"].iloc[0]
    assert (pair["first"], pair["second"], pair["difference"]) == ("knorm 0.5", "tova 0.5", -1)


def test_half_accuracy_is_given_in_kept_tokens(frames):
    row = frames["half_accuracy"].set_index("press").loc["knorm"]
    assert (row["fewest"], row["most"], row["prompt_tokens"]) == (50, 75, 100)


def test_signals_modes_and_discriminators_have_their_n(frames):
    modes = frames["modes"].set_index(["condition", "mode"])
    assert modes.loc[("knorm 0.5", "looping")].tolist() == [20, 20]
    assert modes.groupby("condition")["count"].sum().eq(20).all()
    entropy = frames["signals"].set_index(["condition", "signal"]).loc[("none", "mean entropy")]
    assert entropy["mean"] == pytest.approx(0.5) and entropy["n"] == 20
    assert set(frames["discriminators"]["tokens"]) == {"whole run", "first 16"}
    assert frames["alarms"]["direction"].tolist() == ["high"] * 4 + ["low"] * 4


def test_signals_around_the_onset_have_a_row_for_each_token():
    results = [make_result("none", 0.0, [True] * 6), make_result("knorm", 0.5, [True] * 6, {0: 12, 1: 12})]
    frame = make_numbers(results, None, analyse(results)).frames["onset"]
    assert set(frame["signal"]) == {"entropy", "top1_prob"} and {"offset", "looping", "control"} <= set(frame)


def test_modes_are_counted_by_condition():
    result = make_result("knorm", 0.5, [True, False, True], {1: 3}, stops={2: "error"})
    frame = modes_frame(analyse([result]).runs)
    assert set(frame["condition"]) == {"knorm 0.5"} and set(frame["n"]) == {3}
    counts = dict(zip(frame["mode"], frame["count"], strict=True))
    assert counts == {"correct": 1, "looping": 1, "errored": 1}


def test_only_tables_with_rows_are_files_and_old_ones_go(tmp_path, frames):
    (tmp_path / "contrasts.csv").write_text("old")
    saved = save_frames(frames | {"contrasts": pd.DataFrame()}, tmp_path)
    empty = {"contrasts", "claims", "onset"}  # no loop has a control
    assert {path.stem for path in saved} == set(frames) - empty
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in saved}
    read = pd.read_csv(tmp_path / "comparisons.csv")
    pd.testing.assert_frame_equal(read, frames["comparisons"], atol=1e-6, check_dtype=False)


def test_a_lone_condition_has_its_tables():
    results = [make_result("knorm", 0.5, [True] * 3)]
    analysis = analyse(results)
    numbers = make_numbers(results, None, analysis)
    made = log_frames(results, analysis, numbers.comparisons, [], numbers.half_accuracies)
    assert len(made["conditions"]) == len(RATES) + len(ENDINGS) - 1
    assert not len(made["comparisons"]) and not len(made["alarms"]) and not len(made["half_accuracy"])
