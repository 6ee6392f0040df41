from factories import change_records, make_result, make_sweep

from kvhelpers.analysis.half_accuracy import curves
from kvhelpers.records import Compression
from kvhelpers.report import figures
from kvhelpers.report.figures.sweep import cached_tokens

RIGHT = [True] * 20


def test_rates_are_drawn_against_kept_tokens():
    results = make_sweep()
    (panel,) = figures.rates_by_kept(curves(results), results[0]).axes
    assert panel.get_title() == "knorm (n = 20)"  # tova has one condition only
    assert [list(line.get_xdata()) for line in panel.lines] == [[100, 75, 50]] * 3
    assert list(panel.lines[0].get_ydata()) == [1.0, 0.95, 0.0]
    assert figures.rates_by_kept([], results[0]) is None and figures.cache_over_time(results) is None


def test_fields_are_lines_of_their_own():
    results = [make_result("none", 0.0, RIGHT)]
    for fields in ({}, {"window_size": 8}):
        results += [make_result("snapkv", ratio, RIGHT, press_kwargs=fields) for ratio in (0.25, 0.5)]
    panels = figures.rates_by_kept(curves(results), results[0]).axes
    assert [panel.get_ylabel() for panel in panels] == ["accuracy", "catastrophic failure rate", "looping"]
    assert [len(panel.lines) for panel in panels] == [2, 2, 2]
    (legend,) = filter(
        None, (panel.get_legend() for panel in panels)
    )  # once for the press, at its last panel
    assert panels[2].get_legend() is legend and len(legend.get_texts()) == 2


def test_a_legend_is_not_wider_than_its_figure():
    results = make_sweep()
    figure = figures.rates_by_kept(curves(results), results[0])
    figure.draw_without_rendering()
    (legend,), whole = figure.legends, figure.bbox
    box = legend.get_window_extent()
    assert whole.x0 <= box.x0 and box.x1 <= whole.x1


def test_the_cache_over_time_grows_and_is_cut():
    cuts = (Compression(step=8, before=108, after=60), Compression(step=16, before=68, after=60))
    result = change_records(make_result("DecodingPress", 0.0, [True]), compressions=cuts)
    sizes = cached_tokens(result.records[0])
    assert list(sizes[[0, 7, 8, 15, 16, 29]]) == [100, 107, 60, 67, 60, 73]
    assert figures.cache_over_time([result]).axes[0].lines[0].get_ydata()[8] == 60
