import pytest
from factories import change_records, make_result

from kvhelpers.analysis.comparisons import (
    Verdict,
    compare,
    compare_all,
    compare_conditions,
    compare_contrasts,
    find_power,
    is_correct,
    looping_pairs,
    loops,
    never_ends,
)
from kvhelpers.analysis.half_accuracy import curves
from kvhelpers.errors import InputError
from kvhelpers.experiment.grid import Contrast, Experiment
from kvhelpers.experiment.results import find_baseline
from kvhelpers.stats import compare_counts, detectable_drop

RIGHT, WRONG = [True] * 20, [False] * 20
LOUD = {index: 3 for index in range(20)}
HIGHER, LOWER, NO_EVIDENCE = Verdict


def made():
    return [
        make_result("none", 0.0, RIGHT),
        make_result("knorm", 0.25, [*RIGHT[1:], False]),
        make_result("knorm", 0.5, WRONG, LOUD),
        make_result("tova", 0.5, RIGHT),
    ]


def test_discordant_prompts_are_counted():
    first = make_result("none", 0.0, [True] * 9 + [False])
    second = make_result("knorm", 0.5, [False] * 8 + [True, True])
    assert compare(first, second, is_correct) == compare_counts(only_first=8, only_second=1, n=10)
    assert compare(second, first, is_correct) == compare_counts(only_first=1, only_second=8, n=10)


def test_outcomes_are_told_apart():
    quiet = make_result("none", 0.0, [True] * 4)
    loud = make_result("knorm", 0.5, [True] * 4, {0: 3}, stops={1: "max_new_tokens"})
    assert compare(quiet, loud, loops).only_second == 1
    assert compare(quiet, loud, never_ends).only_second == 2


def test_only_common_prompts_are_compared():
    first, second = make_result("none", 0.0, [True] * 5), make_result("knorm", 0.5, [False] * 3)
    assert compare(first, second, is_correct).n == 3
    other = change_records(second, prompt_id=lambda record: f"other/{record.prompt_id}")
    assert compare(first, other, is_correct) is None
    assert compare_all([first, other]) == [] and compare_conditions([first, other]).power is None


def test_verdicts_follow_the_data():
    compared = compare_all(made())
    assert [against.result.label for against in compared] == ["knorm 0.25", "knorm 0.5", "tova 0.5"]
    assert [against.accuracy.verdict for against in compared] == [NO_EVIDENCE, LOWER, NO_EVIDENCE]
    assert [against.never_ends.verdict for against in compared] == [NO_EVIDENCE, HIGHER, NO_EVIDENCE]
    mended = compare_all([make_result("none", 0.0, WRONG), make_result("knorm", 0.5, RIGHT)])
    assert mended[0].accuracy.verdict == HIGHER


def test_q_values_are_over_the_whole_grid():
    lowest = compare_all(made())[1].accuracy
    assert lowest.q == pytest.approx(lowest.comparison.p * 6 / 2)  # six tests, two with the smallest p


def test_a_verdict_is_of_the_q_value_not_of_p():
    """Six prompts lost of twenty are p = .031: below .05 alone, above it among five conditions of which four
    do not differ.
    """
    lost = [False] * 6 + [True] * 14
    alone = [make_result("none", 0.0, RIGHT), make_result("knorm", 0.5, lost)]
    assert compare_all(alone)[0].accuracy.comparison.p < 0.05
    others = [make_result("tova", ratio, RIGHT) for ratio in (0.25, 0.375, 0.5, 0.625)]
    assert compare_all([*alone, *others])[0].accuracy.verdict == NO_EVIDENCE


def test_contrasts_turn_around():
    results = made()
    there = Contrast(about="the two", first="knorm 0.5", second="tova 0.5")
    back = Contrast(about="the two", first="tova 0.5", second="knorm 0.5")
    (tested,), missing = compare_contrasts(results, [there])
    assert (tested.first.label, tested.second.label, missing) == ("knorm 0.5", "tova 0.5", [])
    assert (tested.looping.verdict, tested.accuracy.verdict) == (HIGHER, LOWER)
    assert (tested.looping.comparison.difference, tested.accuracy.comparison.difference) == (1, -1)
    (tested,), _ = compare_contrasts(results, [back])
    assert (tested.looping.verdict, tested.accuracy.verdict) == (LOWER, HIGHER)
    assert compare_contrasts(results[:2], [there]) == ([], [there])


def test_a_contrast_of_unknown_conditions_is_refused():
    contrast = {"about": "x", "first": "knorm 0.4", "second": "none"}
    grid = [{"press": "none"}, {"press": "knorm", "ratio": 0.5}]
    experiment = Experiment(name="x", objective="", grid=grid, contrasts=[contrast])
    with pytest.raises(
        InputError, match="contrast condition 'knorm 0.4' is unknown; did you mean 'knorm 0.5'"
    ):
        experiment.conditions()


def test_looping_is_compared_between_presses_at_the_same_amount():
    results = made()
    (pair,) = looping_pairs(results)  # knorm 0.25 has no partner, none removes nothing
    assert (pair.first.label, pair.second.label) == ("knorm 0.5", "tova 0.5")
    assert pair.tested.verdict == LOWER and pair.tested.comparison.only_first == 20
    (back,) = looping_pairs([results[3], results[2]])
    assert back.tested.verdict == HIGHER
    budget = make_result("tova", 0.5, RIGHT, budget=50)
    assert looping_pairs([results[2], budget]) == []


def test_the_largest_differences_in_looping_come_first():
    some = {index: 3 for index in range(12)}
    loud, quiet = make_result("knorm", 0.5, RIGHT, LOUD), make_result("tova", 0.5, RIGHT)
    comparisons = compare_conditions([quiet, make_result("random", 0.5, RIGHT, some), loud])
    assert len(comparisons.looping_pairs) == 3
    labels = [(pair.first.label, pair.second.label) for pair in comparisons.looping_differences]
    assert labels == [("tova 0.5", "knorm 0.5"), ("tova 0.5", "random 0.5"), ("random 0.5", "knorm 0.5")]


def test_power_is_that_of_the_compared_prompts():
    power = compare_conditions(made()).power
    assert power == find_power(20) and (power.n, power.fewest) == (20, 6)
    assert power.drop == detectable_drop(20) and power.drop_if_gained == detectable_drop(20, power.gained)
    assert find_power(5).drop is None  # not even the loss of all


def test_each_setting_has_its_own_uncompressed_condition():
    first = {"question_position": "first"}
    results = [
        make_result("none", 0.0, [True] * 20),
        make_result("none", 0.0, [False] * 20, **first),
        make_result("knorm", 0.5, [False] * 20),
        make_result("knorm", 0.5, [False] * 20, **first),
    ]
    usual, moved = compare_conditions(results).against_baseline
    assert usual.result.condition.question_position == "last" and usual.accuracy.verdict == Verdict.LOWER
    assert moved.accuracy.comparison.difference == 0
    assert compare_conditions(results).looping_pairs == []
    assert [curve.baseline for curve in curves(results)] == results[:2]
    assert find_baseline(results, results[3]) is results[1]
