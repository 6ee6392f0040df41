import pytest
from factories import make_result

from kvhelpers.analysis.half_accuracy import curves, find_half_accuracies, find_half_accuracy

RATIOS = (0.25, 0.5, 0.75)


def solved(count, n=40):
    return [True] * count + [False] * (n - count)


def sweep(*counts, base=40, press="knorm", **made):
    compressed = [
        make_result(press, ratio, solved(count), **made) for ratio, count in zip(RATIOS, counts, strict=True)
    ]
    return [make_result("none", 0.0, solved(base)), *compressed]


def half_accuracy_of(*counts, base=40, **made):
    results = sweep(*counts, base=base, **made)
    (curve,) = curves(results)
    return find_half_accuracy(curve)


def test_the_point_is_interpolated_where_accuracy_is_half():
    point = half_accuracy_of(40, 30, 10)
    assert point.removed.value == pytest.approx(0.625) and point.kept.value == pytest.approx(37.5)
    assert point.removed.low < 0.625 < point.removed.high and point.n == 40
    assert point.kept.value >= point.last_kept and not point.suspect
    assert half_accuracy_of(10, 0, 0).removed.value == pytest.approx(0.25 * 20 / 30)
    assert half_accuracy_of(20, 40, 40).removed.value == pytest.approx(0.25)  # the first crossing counts


def test_a_curve_that_does_not_fall_says_so():
    point = half_accuracy_of(40, 40, 39)
    assert point.kept.value < point.last_kept
    assert point.removed.low > point.last_removed == pytest.approx(0.75)
    assert point.kept.high < point.last_kept == pytest.approx(25)
    barely = half_accuracy_of(40, 40, 21)
    assert barely.kept.value < barely.last_kept and barely.removed.low <= 0.75 < barely.removed.high


def test_a_point_above_a_condition_that_means_nothing_is_suspect():
    assert half_accuracy_of(40, 30, 10, flags=["kept_within_window"]).suspect
    assert not half_accuracy_of(40, 30, 10, flags=["sink_evicted"]).suspect
    assert not half_accuracy_of(40, 40, 39, flags=["kept_within_window"]).suspect  # no crossing


def test_no_point_without_accuracy_or_conditions():
    assert half_accuracy_of(0, 0, 0, base=5) is None
    baseline, compressed = make_result("none", 0.0, solved(40)), make_result("knorm", 0.5, solved(1))
    assert find_half_accuracy(curves([baseline, compressed])[0]) is None
    assert find_half_accuracies([compressed]) == []


def test_the_press_that_keeps_its_accuracy_longest_comes_first():
    early, late = sweep(10, 0, 0), sweep(40, 30, 10, press="tova")[1:]
    assert [point.curve.press for point in find_half_accuracies(early + late)] == ["tova", "knorm"]


def test_fields_make_curves_of_their_own():
    results = [
        make_result("none", 0.0, solved(9)),
        *(make_result("snapkv", ratio, solved(9)) for ratio in (0.5, 0.25)),
        make_result("snapkv", 0.75, solved(9), press_kwargs={"window_size": 8}),
    ]
    assert [(curve.name, curve.kept) for curve in curves(results)] == [
        ("snapkv", [75, 50]),
        ("snapkv (window_size=8)", [25]),
    ]
