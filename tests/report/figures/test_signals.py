import numpy as np
from factories import make_result, make_sweep

from kvhelpers import frames
from kvhelpers.analysis.analyse import analyse
from kvhelpers.analysis.discriminators import WITHIN
from kvhelpers.report import figures
from kvhelpers.report.figures.signals import SHOWN, conditions_to_show


def make_loops():
    """A condition whose runs 0 to 9 loop, and its uncompressed runs."""
    rng = np.random.default_rng(0)
    entropy = {index: rng.random(30) for index in range(20)}
    onsets = {index: 10 + index for index in range(10)}
    return [
        make_result("none", 0.0, [True] * 20),
        make_result("knorm", 0.5, [False] * 10 + [True] * 10, onsets, entropy=entropy),
    ]


def texts(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_rows_are_runs_by_onset(assert_whole):
    found = analyse(make_loops())
    figure = figures.heat_map(found.runs, found.signals["entropy"])
    none, knorm, _ = figure.axes  # the last one is the scale
    assert none.get_title() == "none\n20 runs, 0 loop" and knorm.get_title() == "knorm 0.5\n20 runs, 10 loop"
    drawn, entropy = knorm.images[0].get_array(), found.signals["entropy"][20:]
    np.testing.assert_allclose(drawn, entropy.round(3))  # they are in the order of their onsets already
    _, crosses, ends = knorm.lines
    assert list(crosses.get_xdata()) == list(range(10, 20)) and list(crosses.get_ydata()) == list(range(10))
    assert list(ends.get_ydata()) == list(range(10, 20))  # looping runs never end
    assert texts(figure) == ["loop's onset", "end of a run by itself"]
    assert_whole(figure)


def test_of_many_conditions_those_that_loop_half_the_time_are_shown(assert_whole):
    results = [
        make_result(
            "knorm",
            ratio / 100,
            [False] * 8,
            {index: 3 for index in range(ratio % 9)},
            flags=["kept_within_window"] if ratio == 4 else [],
        )
        for ratio in range(1, 28)
    ]
    found = analyse(results)
    shown = conditions_to_show(found.runs)
    half = [result.label for result in results if result.summary.looping.count == 4]
    assert len(shown) == SHOWN and set(half) < set(shown)
    assert shown == [result.label for result in results if result.label in shown]
    figure = figures.heat_map(found.runs, found.signals["entropy"])
    names = [axes.get_title().split("\n")[0] for axes in figure.axes[:-1]]
    assert names == [f"{label} †" if label == "knorm 0.04" else label for label in shown]
    assert texts(figure)[-1] == "not valid, see its flags"
    assert_whole(figure)


def test_many_runs_fit_a_page(assert_whole):
    runs = frames.runs([make_result("knorm", ratio / 10, [True] * 150) for ratio in range(1, 7)])
    figure = figures.heat_map(runs, np.ones((len(runs), 30)))
    assert [image.get_array().shape for axes in figure.axes[:-1] for image in axes.images] == [(150, 30)] * 6
    assert_whole(figure)


def test_looping_runs_and_controls_are_drawn_around_the_onset(assert_whole):
    aligned = analyse(make_loops()).aligned
    figure = figures.aligned(aligned)
    *panels, counts = figure.axes
    for axes, table in zip(panels, aligned.values(), strict=True):
        looping, control = [line for line in axes.lines if len(line.get_xdata()) > 2]
        np.testing.assert_allclose(looping.get_ydata(), table["looping"].round(3))
        np.testing.assert_allclose(control.get_ydata(), table["control"].round(3))
        assert looping.get_color() != control.get_color()
    assert [axes.get_ylabel() for axes in panels] == ["entropy (nats)", "top-1 probability"]
    assert counts.get_ylim()[1] >= 10
    assert texts(figure) == [
        "looping runs",
        "runs of the same condition that never loop, at the same token",
    ]
    assert_whole(figure)


def test_dots_are_the_table_s(assert_whole):
    table = analyse(make_loops()).discriminators
    figure = figures.discriminator_dots(table)
    rows = table[(table["among"] == WITHIN) & table["auroc"].notna()]
    assert [axes.get_title() for axes in figure.axes] == list(rows["outcome"].unique())
    features = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert features == list(rows["feature"].unique()) and "top-1 probability, largest" in features
    for axes in figure.axes:
        part = rows[rows["outcome"] == axes.get_title()].set_index("feature").reindex(features)
        np.testing.assert_array_equal(axes.lines[0].get_xdata(), part["auroc"])
    assert figures.discriminator_dots(table[:0]).axes
    assert_whole(figure)


def test_nothing_to_tell_apart_is_no_error():
    assert figures.discriminator_dots(analyse(make_sweep()[:1]).discriminators).axes
