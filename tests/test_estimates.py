"""Conditions are compared on their common prompts; half of the accuracy is found where it is lost."""

import numpy as np
import pytest
from factories import change_records, make_result, make_sweep

from kvhelpers import estimates, frames, signals
from kvhelpers.experiment.grid import Contrast
from kvhelpers.stats import compare_counts

RIGHT = [True] * 20
RATIOS = (0.25, 0.5, 0.75)


def keyed(rows):
    return frames.long_frame(rows).set_index(["subject", "metric"])


def compared(*results):
    return keyed(estimates.differences(frames.runs(results)))


def test_discordant_prompts_are_counted():
    first = make_result("none", 0.0, [True] * 9 + [False])
    table = compared(first, make_result("knorm", 0.5, [False] * 8 + [True, True])).loc["knorm 0.5"]
    made = compare_counts(only_first=8, only_second=1, n=10)
    assert table.loc[["accuracy, lost", "accuracy, gained"], "estimate"].tolist() == [8, 1]
    found = table.loc["accuracy", ["estimate", "low", "high", "n"]].tolist()
    assert (
        found == [made.difference, made.low, made.high, 10] and table.loc["accuracy, p", "estimate"] == made.p
    )


def test_loops_and_runs_without_an_end_are_told_together():
    loud = make_result("knorm", 0.5, [True] * 4, {0: 3}, stops={1: "max_new_tokens"})
    table = compared(make_result("none", 0.0, [True] * 4), loud)
    assert table.loc[("knorm 0.5", "loops or does not end, gained"), "estimate"] == 2


def test_only_prompts_that_also_ran_without_compression_are_compared():
    plain, short = make_result("none", 0.0, [True] * 5), make_result("knorm", 0.5, [False] * 3)
    assert compared(plain, short)["n"].tolist() == [3] * 8
    other = change_records(short, prompt_id=lambda record: f"other/{record.prompt_id}")
    assert not len(compared(plain, other)) and not len(compared(short))


def test_verdicts_are_of_q_over_the_whole_grid():
    table = compared(*make_sweep())
    verdicts = table["verdict"].dropna()
    assert verdicts.loc[:, "accuracy"].tolist() == ["undecided", "lower", "undecided"]
    assert verdicts.loc[:, estimates.NEVER_ENDS].tolist() == ["undecided", "higher", "undecided"]
    lowest = table.loc["knorm 0.5"]
    assert lowest.loc["accuracy", "q"] == pytest.approx(lowest.loc["accuracy, p", "estimate"] * 6 / 2)
    lost = make_result("knorm", 0.5, [False] * 6 + [True] * 14)  # p = .031
    others = [make_result("tova", ratio, RIGHT) for ratio in (0.25, 0.375, 0.5, 0.625)]
    alone, among = (compared(make_result("none", 0.0, RIGHT), lost, *more) for more in ((), others))
    assert alone.loc[("knorm 0.5", "accuracy, p"), "estimate"] < 0.05
    assert among.loc[("knorm 0.5", "accuracy"), "verdict"] == "undecided"


def test_contrasts_turn_around_and_missing_ones_have_no_row():
    runs = frames.runs(make_sweep())
    pair = ("knorm 0.5", "tova 0.5")
    for (first, second), sign in ((pair, 1), (pair[::-1], -1)):
        contrasts = [Contrast(about="the two", first=first, second=second)]
        contrasts += [Contrast(about="not there", first=first, second="snapkv 0.5")]
        table = keyed(estimates.contrasted(runs, contrasts))
        assert set(table.index.get_level_values(0)) == {f"the two: {first} against {second}"}
        assert table.loc[table["verdict"].notna(), "estimate"].tolist() == [sign, -sign]


def solved(count, n=40):
    return [True] * count + [False] * (n - count)


def half_of(*counts, base=40, **made):
    pairs = zip(RATIOS, counts, strict=True)
    results = [make_result("knorm", ratio, solved(count), **made) for ratio, count in pairs]
    rows = estimates.half_accuracy(frames.runs([make_result("none", 0.0, solved(base)), *results]))
    return frames.long_frame(rows)


@pytest.mark.parametrize(
    ("counts", "more", "less", "low", "high"),
    [
        ((40, 30, 10), 50, 25, 25, 50),  # 30 of 40 is half of 40 or less in one of 1000 draws
        ((10, 0, 0), 100, 75, 75, 100),
        ((20, 40, 40), 100, 75, 0, 100),  # the first fall counts, and half is fallen
        ((40, 21, 10), 50, 25, 25, 75),
        ((40, 40, 39), 25, 0, 0, 25),
        ((40, 40, 21), 25, 0, 0, 50),
    ],
)
def test_the_two_conditions_around_the_fall_are_named(counts, more, less, low, high):
    table = half_of(*counts)
    assert table["estimate"].tolist() == [more, less] and set(table["n"]) == {40}
    assert table.loc[1, ["low", "high"]].tolist() == [low, high]


def test_a_point_above_a_condition_that_means_nothing_is_not_valid():
    assert half_of(40, 30, 10, flags=["kept_within_window"])["verdict"].tolist() == [None, "not valid"]
    assert half_of(40, 30, 10, flags=["sink_evicted"])["verdict"].isna().all()
    assert half_of(40, 40, 39, flags=["kept_within_window"])["verdict"].isna().all()  # no crossing


def test_no_point_without_accuracy_or_conditions():
    assert not len(half_of(0, 0, 0, base=5))
    two = [make_result("none", 0.0, solved(40)), make_result("knorm", 0.5, solved(1))]
    assert estimates.half_accuracy(frames.runs(two)) == [] == estimates.half_accuracy(frames.runs(two[1:]))


def test_fields_make_curves_of_their_own():
    results = [
        make_result("none", 0.0, solved(9)),
        *(make_result("snapkv", ratio, solved(9)) for ratio in (0.5, 0.25)),
        make_result("snapkv", 0.75, solved(9), press_kwargs={"window_size": 8}),
    ]
    found = [(name, part["condition"].nunique()) for name, part in estimates.curves(frames.runs(results))]
    assert found == [("snapkv", 2), ("snapkv (window_size=8)", 1)]


def test_rates_count_every_run_and_signals_those_with_tokens():
    broken = make_result("knorm", 0.5, [False] * 3, stops={0: "error"}, entropy={0: []})
    runs, tokens = frames.runs([broken]), frames.tokens([broken], signals.SIGNALS)
    assert keyed(estimates.rates(runs)).loc[("knorm 0.5", "accuracy"), "n"] == 3
    table = keyed(estimates.signal_means(runs, tokens)).loc["knorm 0.5"]
    assert table["n"].tolist() == [2] * 3 and table.loc["largest entropy", "estimate"] == 1
    long = estimates.estimates(runs, tokens)
    assert list(long) == list(frames.LONG) and not np.isinf(long["estimate"].astype(float)).any()
