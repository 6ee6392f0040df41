import pytest
from made import make_cell

from kvhelpers.cliff import curves, find_cliff

RATIOS = (0.25, 0.5, 0.75)


def solved(count, n=40):
    return [True] * count + [False] * (n - count)


def cliff_of(*counts, base=40):
    cells = [
        make_cell("none", 0.0, solved(base)),
        *(make_cell("knorm", r, solved(c)) for r, c in zip(RATIOS, counts, strict=True)),
    ]
    (curve,) = curves(cells)
    return find_cliff(cells[0], curve)


def test_the_cliff_is_interpolated_where_accuracy_is_half():
    cliff = cliff_of(40, 30, 10)
    assert cliff.removed[0] == pytest.approx(0.625) and cliff.kept[0] == pytest.approx(37.5)
    assert cliff.removed[1] < 0.625 < cliff.removed[2] and cliff.n == 40
    assert cliff_of(10, 0, 0).removed[0] == pytest.approx(0.25 * 20 / 30)
    assert cliff_of(20, 40, 40).removed[0] == pytest.approx(0.25)  # the first crossing counts


def test_a_curve_that_does_not_fall_says_so():
    cliff = cliff_of(40, 40, 39)
    assert cliff.removed_text() == "> 0.75 [> 0.75, > 0.75]" and cliff.kept_text() == "< 25 [< 25, < 25]"
    assert cliff_of(40, 40, 21).removed_text().endswith(", > 0.75]")


def test_no_cliff_without_accuracy_or_points():
    assert cliff_of(0, 0, 0, base=5) is None
    baseline, one = make_cell("none", 0.0, solved(40)), make_cell("knorm", 0.5, solved(1))
    assert find_cliff(baseline, curves([baseline, one])[0]) is None


def test_fields_make_curves_of_their_own():
    cells = [make_cell("none", 0.0, solved(9)), *(make_cell("snapkv", ratio, solved(9)) for ratio in RATIOS)]
    cells[-1].config["press_kwargs"] = {"window_size": 8}
    assert [(curve.name, len(curve.cells)) for curve in curves(cells)] == [("snapkv", 2), ("snapkv (window_size=8)", 1)]
