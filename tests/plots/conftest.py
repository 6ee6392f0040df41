"""What every figure must be: whole, no wider than a column, with its legend beside its data."""

import itertools

import pytest

TOLERANCE = 0.02  # inches


def check_whole(figure):
    width, height = figure.get_size_inches()
    assert width <= 7.5 + 1e-6 and height <= 9
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    assert box.x0 >= -TOLERANCE and box.y0 >= -TOLERANCE
    assert box.x1 <= width + TOLERANCE and box.y1 <= height + TOLERANCE
    legends = [legend.get_window_extent() for legend in figure.legends]
    for axes in figure.axes:
        assert not any(legend.overlaps(axes.get_window_extent()) for legend in legends)
        boxes = [label.get_window_extent() for label in axes.get_yticklabels() if label.get_text()]
        boxes = sorted((box for box in boxes if box.height), key=lambda box: box.y0)
        assert all(lower.y1 <= upper.y0 + 2 for lower, upper in itertools.pairwise(boxes))
    titles = [axes.title.get_window_extent() for axes in figure.axes if axes.get_title()]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(titles, 2))
    assert len(legends) <= 1


@pytest.fixture
def assert_whole():
    """Checks of a figure's size, and that nothing in it is cut or written over."""
    return check_whole


@pytest.fixture(autouse=True)
def no_warnings(recwarn):
    """No figure emits a warning."""
    yield
    assert [str(warning.message) for warning in recwarn if warning.category is not DeprecationWarning] == []
