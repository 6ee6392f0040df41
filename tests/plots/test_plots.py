"""What figures show is what the runs say."""

import numpy as np
import pytest
from factories import make_result, make_sweep

from kvhelpers import frames, plots, signals
from kvhelpers.stats import wilson

RIGHT = [True] * 20


def texts(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def lines(axes):
    return [line for line in axes.lines if len(line.get_xdata())]


def test_rates_are_drawn_against_kept_tokens_with_wilson_bands(assert_whole):
    extra = make_result("knorm", 0.75, [False] * 20, flags=["kept_within_window"])
    runs = frames.runs([*make_sweep(), extra])
    figure = plots.rates(runs, [])
    (panel,) = figure.axes
    assert panel.get_title() == "knorm"  # tova has one condition only
    assert [list(line.get_xdata()) for line in lines(panel)] == [[25, 50, 75, 100]] * 3
    assert [list(line.get_ydata()) for line in lines(panel)] == [
        [0, 0, 0.95, 1],
        [1, 1, 0.05, 0],
        [0, 1, 0, 0],
    ]
    assert texts(figure) == [*plots.OUTCOMES, "not valid, see its flags"]
    bands = [
        band.get_paths()[0].vertices[:, 1]
        for band in panel.collections
        if len(band.get_paths()[0].vertices) > 8
    ]
    rate = wilson(19, 20)
    assert np.isclose(bands[0], rate.low).any() and np.isclose(bands[0], rate.high).any()
    assert_whole(figure)


@pytest.mark.parametrize("n", [1, 12])
def test_few_conditions_of_a_press_are_rows(n, assert_whole):
    pressed = [
        make_result(f"Press{i}", 0.5, RIGHT, {0: 3}, flags=["run_failed"] * (i == 0)) for i in range(n)
    ]
    runs = frames.runs([make_result("none", 0.0, RIGHT), *pressed])
    shown = list(dict.fromkeys(runs["condition"]))
    figure = plots.rates(runs, shown)
    (axes,) = figure.axes
    labels = [tick.get_text() for tick in axes.get_yticklabels()]
    assert labels == ["none", "Press0 0.5 †", *shown[2:]]
    assert texts(figure) == [*plots.OUTCOMES, "not valid, see its flags"]
    assert_whole(figure)


def test_rows_of_a_heat_map_are_runs_by_onset(assert_whole):
    draw = np.random.default_rng(0)
    entropy = {index: draw.random(30) for index in range(20)}
    onsets = {index: 10 + index for index in range(10)}
    looping = make_result("knorm", 0.5, [False] * 10 + [True] * 10, onsets, entropy=entropy)
    results = [make_result("none", 0.0, RIGHT), looping]
    runs = frames.runs(results)
    signal = signals.wide(runs, frames.tokens(results, ["entropy"]), "entropy")
    figure = plots.heat_map(runs, signal)
    none, knorm, _ = figure.axes  # the last one is the scale
    assert none.get_title() == "none\n20 runs, 0 loop" and knorm.get_title() == "knorm 0.5\n20 runs, 10 loop"
    np.testing.assert_allclose(
        knorm.images[0].get_array(), signal[20:].round(3)
    )  # in the order of their onsets
    crosses, ends = knorm.lines
    assert [x for x in crosses.get_xdata() if x == x] == list(range(10, 20))
    assert list(ends.get_ydata()) == list(range(10, 20))  # looping runs never end
    assert_whole(figure)


def test_of_many_conditions_those_that_loop_half_the_time_are_shown(assert_whole):
    many = [
        make_result("knorm", ratio / 100, [False] * 8, {index: 3 for index in range(ratio % 9)})
        for ratio in range(1, 28)
    ]
    runs = frames.runs(many)
    figure = plots.heat_map(runs, signals.wide(runs, frames.tokens(many, ["entropy"]), "entropy"))
    names = [axes.get_title().split("\n")[0] for axes in figure.axes[:-1]]
    half = {result.label for result in many if result.summary.looping.count == 4}
    assert len(names) == 6 and half < set(names) and names == [r.label for r in many if r.label in names]
    assert_whole(figure)
