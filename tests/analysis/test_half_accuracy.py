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


def between(point):
    return point.fewest, point.most


def test_the_two_conditions_around_the_fall_are_named():
    point = half_accuracy_of(40, 30, 10)
    assert between(point) == (25, 50) and point.n == 40 and not point.suspect
    assert (point.low, point.high) == (25, 50)  # 30 of 40 is half of 40 or less in one of 1000 draws
    assert between(half_accuracy_of(10, 0, 0)) == (75, 100)
    assert between(half_accuracy_of(20, 40, 40)) == (75, 100)  # the first fall counts, and half is fallen


def test_the_interval_holds_neighbours_that_could_be_the_ones():
    point = half_accuracy_of(40, 21, 10)
    assert between(point) == (25, 50) and (point.low, point.high) == (25, 75)


def test_a_curve_that_does_not_fall_says_so():
    point = half_accuracy_of(40, 40, 39)
    assert between(point) == (0, 25) and (point.low, point.high) == (0, 25)
    barely = half_accuracy_of(40, 40, 21)
    assert between(barely) == (0, 25) and (barely.low, barely.high) == (0, 50)


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
