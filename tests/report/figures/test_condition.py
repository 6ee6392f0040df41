import numpy as np
from factories import make_result, make_sweep

from kvhelpers.analysis.analyse import analyse
from kvhelpers.report import figures
from kvhelpers.report.log import draw

LONG = {"base_press": {"name": "streaming_llm"}, "compression_interval": 8, "target_size": 512}


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_outcomes_are_drawn_with_their_intervals(assert_whole):
    results = make_sweep()
    figure = figures.outcomes(results)
    (axes,) = figure.axes
    accuracy, cfr = axes.containers
    assert list(accuracy[0].get_xdata()) == [1.0, 0.95, 0.0, 1.0]
    assert list(cfr[0].get_xdata()) == [0.0, 0.05, 1.0, 0.0]
    ends = [segment[:, 0] for segment in accuracy[2][0].get_segments()]
    wilson = [(result.summary.accuracy.low, result.summary.accuracy.high) for result in results]
    np.testing.assert_allclose(ends, wilson)
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        f"{result.label}\n(n = 20)" for result in results
    ]
    assert legend(figure) == ["accuracy", "catastrophic failure rate"]
    assert_whole(figure)


def test_outcomes_that_are_not_valid_are_marked(assert_whole):
    results = make_sweep()
    results[2] = make_result("knorm", 0.5, [False] * 20, flags=["kept_within_window"], press_kwargs=LONG)
    figure = figures.outcomes(results)
    (axes,) = figure.axes
    names = [" ".join(label.get_text().split()) for label in axes.get_yticklabels()]
    assert [name for name in names if "†" in name] == [f"{results[2].label} † (n = 20)"]
    opened = [points.get_offsets().tolist() for points in axes.collections[-2:]]
    assert [[x for x, _ in points] for points in opened] == [[0.0], [1.0]]
    assert legend(figure)[-1] == "not valid, see its flags"
    assert_whole(figure)


def test_a_weak_baseline_takes_the_meaning_of_all_outcomes():
    results = [make_result("none", 0.0, [False] * 20), make_result("knorm", 0.5, [False] * 20)]
    (axes,) = figures.outcomes(results).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "none †\n(n = 20)",
        "knorm 0.5 †\n(n = 20)",
    ]


def test_a_trace_shows_all_of_its_long_labels(assert_whole):
    result = make_result("DecodingPress", 0.0, [False], {0: 12}, press_kwargs=LONG)
    other = make_result("none", 0.0, [True], entropy={0: [0.5, 0.4]})
    runs = [(of_run.label, of_run.signals()) for of_run in (result, other)]
    figure = figures.trace(runs, 12, not_valid=[result.label])
    assert [" ".join(label.split()) for label in legend(figure)] == [
        f"{result.label} †",
        "none",
        "loop onset (token 12)",
        "not valid, see its flags",
    ]
    for axes, column in zip(figure.axes, ("entropy", "top1_prob"), strict=True):
        lines = [line for line in axes.lines if len(line.get_xdata())]
        for line, (_, signals) in zip(lines, runs, strict=False):
            np.testing.assert_allclose(line.get_ydata(), signals[column].round(3))
        assert set(lines[-1].get_xdata()) == {12}
    assert_whole(figure)


def test_a_trace_without_a_loop_has_no_onset(assert_whole):
    result = make_result("knorm", 0.5, [True])
    figure = figures.trace([(result.label, result.signals())])
    assert legend(figure) == ["knorm 0.5"]
    assert_whole(figure)


def test_a_run_is_shown_around_its_onset(assert_whole):
    entropy = {0: np.linspace(1, 2, 120), 1: np.linspace(1, 2, 50), 2: [], 3: np.linspace(1, 2, 40)}
    result = make_result("knorm", 0.5, [False] * 4, {0: 60, 3: 0}, text="a $b", entropy=entropy)
    figure = figures.token_trace(result, result.records[0])
    before, _, after, words = figure.axes
    assert figure.axes[1].get_xlabel() == "new tokens 28 to 59, as generated"
    assert words.get_xlabel() == "new tokens 60 to 92, as generated"
    np.testing.assert_allclose([bar.get_height() for bar in before.patches], entropy[0][28:60].round(3))
    np.testing.assert_allclose([bar.get_height() for bar in after.patches], entropy[0][60:93].round(3))
    assert legend(figure) == ["before the loop", "from the loop's onset on (token 60)"]
    assert before.get_title(loc="left") == "p/0, knorm 0.5"
    assert_whole(figure)
    at_once = figures.token_trace(result, result.records[3])
    assert [axes.get_xlabel() for axes in at_once.axes] == ["", "new tokens 0 to 32, as generated"]
    assert legend(at_once) == ["from the loop's onset on (token 0)"]
    assert_whole(at_once)


def test_a_run_without_a_loop_is_shown_from_its_start(assert_whole):
    result = make_result(
        "knorm", 0.5, [False] * 2, text="a $b", entropy={0: [0.5] * 50, 1: []}, flags=["kept_within_window"]
    )
    figure = figures.token_trace(result, result.records[0])
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert labels == ["", "new tokens 0 to 31, as generated", "", "new tokens 32 to 49, as generated"]
    names = [label.get_text() for label in figure.axes[1].get_xticklabels()]
    assert names[:5] == ["a", "·", r"\$", "b", "∅"]
    assert figure.axes[0].get_title(loc="left") == "p/0, knorm 0.5 †"
    assert legend(figure) == ["not valid, see its flags"]
    assert_whole(figure)
    assert figures.token_trace(result, result.records[1]) is None


def test_the_log_s_trace_marks_a_condition_that_is_not_valid():
    results = [
        make_result("none", 0.0, [True] * 8),
        make_result("knorm", 0.5, [False] * 8, {0: 3}, flags=["kept_within_window"]),
    ]
    assert "knorm 0.5 †" in legend(draw(results[1:], analyse(results[1:]))["trace"])
    assert legend(draw(results, analyse(results))["trace"]) == ["none"]  # the valid one is looked at
