"""Figures of a study draw its numbers."""

import numpy as np
import pytest
from factories_risk import make_looping_study, make_scrutiny

from kvhelpers.report.figures.hazard import (
    DRAWN,
    OF_SCRUTINY,
    SHOWN,
    coefficients,
    cumulative_incidence,
    hazard_figures,
    published,
    reliability,
    risk_over_time,
    varied,
)


@pytest.fixture(scope="module")
def study():
    return make_looping_study()[0]


def test_all_figures_have_a_name(study):
    assert list(hazard_figures(study)) == list(DRAWN)
    scrutinized = study.model_copy(update={"scrutiny": make_scrutiny()})
    assert list(hazard_figures(scrutinized)) == [*DRAWN, *OF_SCRUTINY]


def test_a_panel_per_press_and_a_line_per_condition(study):
    (axes,) = cumulative_incidence(study.incidence).axes
    (line,) = (line for line in axes.lines if len(line.get_xdata()))
    (curve,) = (curve for curve in study.incidence if curve.press == "knorm")
    assert axes.get_title() == "knorm"
    np.testing.assert_array_equal(line.get_xdata(), curve.tokens)
    np.testing.assert_array_equal(line.get_ydata(), curve.incidence)
    bare = [curve.model_copy(update={"press": "none"}) for curve in study.incidence]
    assert [axes.get_title() for axes in cumulative_incidence(bare).axes] == ["none"]


def test_presses_with_too_few_runs_say_so(study, assert_whole):
    (curve,) = (curve for curve in study.incidence if curve.press == "knorm")
    few = curve.model_copy(update={"press": "tova", "tokens": (), "incidence": ()})
    figure = cumulative_incidence([curve, few])
    assert [[text.get_text() for text in axes.texts] for axes in figure.axes] == [[], ["too few runs"]]
    assert_whole(figure)
    alone = cumulative_incidence([few])
    assert not alone.legends
    assert_whole(alone)


def test_no_figure_is_cut(study, assert_whole):
    for figure in hazard_figures(study).values():
        assert_whole(figure)


def test_panels_that_are_not_needed_are_gone(study):
    (curve,) = (curve for curve in study.incidence if curve.press == "knorm")
    curves = [curve.model_copy(update={"press": name}) for name in ("a", "b", "c", "d")]
    assert [axes.get_title() for axes in cumulative_incidence(curves).axes] == ["a", "b", "c", "d"]


def test_the_legend_stands_once_and_the_lowest_panels_have_numbers(study, assert_whole):
    (curve,) = (curve for curve in study.incidence if curve.press == "knorm")
    curves = [
        curve.model_copy(update={"press": press, "task": task, "removed": removed})
        for press in "abcdef"
        for task, removed in (("onestep", 0.5), ("gsm8k", 0.75))
    ]
    figure = cumulative_incidence(curves)
    (legend,) = figure.legends
    names = ["share removed", "50 %", "75 %", "task", "onestep", "gsm8k"]
    assert [text.get_text() for text in legend.get_texts()] == names
    assert all(axes.get_legend() is None for axes in figure.axes)
    figure.draw_without_rendering()
    labelled = [any(text.get_visible() for text in axes.get_xticklabels()) for axes in figure.axes]
    assert labelled == [False, False, False, True, True, True]
    assert [bool(axes.get_xlabel()) for axes in figure.axes] == labelled
    assert all(axes.xaxis.label.get_visible() for axes in figure.axes[3:])
    assert_whole(figure)


def test_risk_is_drawn_up_to_the_event(study):
    panels = risk_over_time(study).axes
    assert len(panels) == len(study.traces)
    for axes, trace in zip(panels, study.traces, strict=True):
        risk, event = axes.lines
        np.testing.assert_array_equal(risk.get_ydata(), trace.risk)
        assert set(event.get_xdata()) == {trace.time} and max(risk.get_xdata()) < trace.time
        title = " ".join(axes.get_title(loc="left").split())
        assert title.startswith(f"{trace.kind}: {trace.condition}") and title.endswith(f"token {trace.time}")


def test_the_largest_coefficient_is_at_the_top(study):
    (axes,) = coefficients(study).axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[::-1] == [coefficient.feature for coefficient in study.coefficients[:SHOWN]]


def test_bins_and_the_diagonal(study):
    (axes,) = reliability(study).axes
    points = axes.lines[0]
    least = axes.get_xlim()[0]
    drawn = np.maximum([(part.predicted, part.observed) for part in study.reliability], least)
    np.testing.assert_array_equal(points.get_xydata(), drawn)
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log") and least > 0


def test_definitions_are_drawn_from_the_published_ones_down(assert_whole):
    figure = published(make_scrutiny())
    (axes,) = figure.axes
    names = [f"all pairs of a fold, horizon {horizon}" for horizon in (1, 10, 50)]
    lines = {line.get_label(): line.get_xdata() for line in axes.lines}
    np.testing.assert_allclose(lines[names[1]], [0.96, 0.8, 0.6])
    np.testing.assert_allclose(lines["same condition and token, horizon 10"], [0.48, 0.4, 0.3])
    assert len(lines[names[0]]) == 0 and axes.yaxis_inverted()
    assert axes.get_yticklabels()[0].get_text() == "all as published"
    assert_whole(figure)


def test_a_line_per_definition_of_failure(assert_whole):
    figure = varied(make_scrutiny())
    (axes,) = figure.axes
    usual, other, _ = axes.lines
    np.testing.assert_allclose(usual.get_xydata(), [[10, 0.6], [32, 0.7]])
    assert other.get_label() == "loops of 10 tokens"
    assert_whole(figure)
