import pytest
from factories import make_result, make_sweep
from matplotlib.colors import to_hex

from kvhelpers.analysis.half_accuracy import curves
from kvhelpers.report import figures
from kvhelpers.report.figures.style import RATES

RIGHT, WRONG = [True] * 20, [False] * 20


def lines(axes):
    return [line for line in axes.lines if len(line.get_xdata())]


def texts(legend):
    return [text.get_text() for text in legend.get_texts()]


def make_settings(press="snapkv", flags=(), sizes=(4, 8, 16, 32, 64), fields=None):
    """A press with a window of several sizes; the largest one is flagged where it keeps little."""
    return [
        make_result(
            press,
            ratio,
            WRONG if size == sizes[-1] else RIGHT,
            flags=flags if (size, ratio) == (sizes[-1], 0.875) else (),
            press_kwargs={"window_size": size} | (fields or {}),
        )
        for ratio in (0.5, 0.75, 0.875)
        for size in sizes
    ]


def test_rates_are_drawn_against_kept_tokens(assert_whole):
    results = make_sweep()
    figure = figures.rates_by_kept(curves(results))
    (panel,) = figure.axes
    assert panel.get_title() == "knorm (n = 20)"  # tova has one condition only
    assert [list(line.get_xdata()) for line in lines(panel)] == [[100, 75, 50]] * 3
    assert [list(line.get_ydata()) for line in lines(panel)] == [[1, 0.95, 0], [0, 0.05, 1], [0, 0, 1]]
    assert texts(figure.legends[0]) == ["accuracy", "catastrophic failure rate", "looping"]
    assert [line.get_color() for line in lines(panel)] == [colour for _, colour, *_ in RATES.values()]
    assert [tick.get_text() for tick in panel.get_xticklabels()] == ["100", "75", "50"]
    assert figures.rates_by_kept([]) is None
    assert_whole(figure)


def test_bands_are_wilson_intervals():
    results = make_sweep()
    (panel,) = figures.rates_by_kept(curves(results)).axes
    band = panel.collections[0].get_paths()[0].vertices
    for result in (results[0], *results[1:3]):
        rate, kept = result.summary.accuracy, 100 * (1 - result.condition.ratio)
        drawn = {round(y, 9) for x, y in band if x == kept}
        assert drawn == {round(rate.low, 9), round(rate.high, 9)}


@pytest.mark.parametrize(("n", "shape"), [(1, (1, 1)), (2, (1, 2)), (7, (3, 3))])
def test_one_legend_for_all_presses_with_one_setting(n, shape, assert_whole):
    names = ("streaming_llm", "snapkv", "observed_attention", "expected_attention", "knorm", "tova", "random")
    results = [make_result("none", 0.0, RIGHT)]
    results += [make_result(name, ratio, RIGHT) for name in names[:n] for ratio in (0.25, 0.5)]
    figure = figures.rates_by_kept(curves(results))
    assert [axes.get_title() for axes in figure.axes] == [f"{name} (n = 20)" for name in names[:n]]
    assert figure.axes[0].get_gridspec().get_geometry() == shape
    assert all(axes.get_legend() is None for axes in figure.axes)
    labelled = [bool(axes.get_xlabel()) for axes in figure.axes]
    assert labelled == [number + shape[1] >= n for number in range(n)]
    assert_whole(figure)


def test_settings_are_lines_and_each_press_has_one_legend(assert_whole):
    results = [
        make_result("none", 0.0, RIGHT),
        *make_settings(),
        *make_settings("tova", fields={"press": {"name": "knorm"}}),
    ]
    figure = figures.rates_by_kept(curves(results))
    panels, ends = [figure.axes[i] for i in (0, 1, 2, 4, 5, 6)], (figure.axes[3], figure.axes[7])
    assert [panel.get_title() for panel in panels[:3]] == ["accuracy", "catastrophic failure rate", "looping"]
    assert [len(lines(panel)) for panel in panels] == [5] * 6
    assert all(panel.get_legend() is None for panel in panels) and not figure.legends
    assert [end.get_legend().get_title().get_text() for end in ends] == [
        "snapkv (n = 20)",
        "tova (knorm) (n = 20)",
    ]
    assert [texts(end.get_legend()) for end in ends] == [
        [f"window_size={size}" for size in (4, 8, 16, 32, 64)]
    ] * 2
    assert list(lines(panels[0])[0].get_ydata()) == [1, 1, 1, 1]
    assert list(lines(panels[0])[4].get_ydata()) == [1, 0, 0, 0]
    colours = [to_hex(line.get_color()) for panel in (panels[0], panels[3]) for line in lines(panel)]
    assert len(set(colours)) == 10  # one colour means one setting
    assert_whole(figure)


def test_presses_with_and_without_settings_are_in_one_figure(assert_whole):
    results = [make_result("none", 0.0, RIGHT), *make_settings(sizes=(8, 64))]
    results += [make_result("knorm", ratio, RIGHT) for ratio in (0.25, 0.5)]
    figure = figures.rates_by_kept(curves(results))
    assert texts(figure.legends[0]) == ["accuracy", "catastrophic failure rate", "looping"]
    assert [len(lines(panel)) for panel in figure.axes] == [3, 2, 2, 2, 0]
    assert_whole(figure)


def test_default_fields_are_named():
    results = [make_result("none", 0.0, RIGHT)]
    for fields in ({}, {"window_size": 8}):
        results += [make_result("snapkv", ratio, RIGHT, press_kwargs=fields) for ratio in (0.25, 0.5)]
    figure = figures.rates_by_kept(curves(results))
    assert texts(figure.axes[3].get_legend()) == ["usual", "window_size=8"]


def test_open_markers_are_conditions_that_are_not_valid(assert_whole):
    results = [make_result("none", 0.0, RIGHT), *make_settings(flags=["kept_within_window"])]
    figure = figures.rates_by_kept(curves(results))
    assert texts(figure.legends[0]) == ["not valid, see its flags"]
    for panel, share in zip(figure.axes, (0, 1, 0), strict=False):
        *_, points = panel.collections
        assert points.get_offsets().tolist() == [[12.5, share]]
    assert_whole(figure)


def test_beside_a_weak_baseline_looping_keeps_its_meaning():
    results = [make_result("none", 0.0, WRONG)]
    results += [make_result("knorm", ratio, WRONG, {0: 3}) for ratio in (0.25, 0.5)]
    figure = figures.rates_by_kept(curves(results))
    opened = [points for points in figure.axes[0].collections if len(points.get_offsets()) > 1]
    assert [[y for _, y in points.get_offsets()] for points in opened] == [[0, 0, 0], [1, 1, 1]]
    assert texts(figure.legends[0])[-1] == "not valid, see its flags"


def test_ticks_are_not_written_over_each_other():
    results = [make_result("none", 0.0, RIGHT)]
    results += [make_result("knorm", ratio, RIGHT) for ratio in (0.02, 0.25, 0.26)]
    (panel,) = figures.rates_by_kept(curves(results)).axes
    assert [tick.get_text() for tick in panel.get_xticklabels()] == ["100", "75"]
