"""Accuracy against memory over time, as matplotlib objects; `style.save` writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from kvhelpers.guard.frontier import PolicyResult, curves_of, hull
from kvhelpers.guard.live_study import CurvePoint, LiveStudy
from kvhelpers.report.figures.style import COLOURS, MARKERS, STYLE, WIDTH, legend_above


def frontier_figure(study: LiveStudy, made: Sequence[PolicyResult]) -> Figure:
    """Accuracy against the share of the full cache's entries × steps, a panel a source, a marker a policy
    with 95 % intervals over prompts; grey are each condition's press at its own ratios, and their mixtures.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 5.6), layout="constrained")
        row = figure.subplots(1, len(study.sources), squeeze=False, sharey=True)[0]
        shown = {}
        for axes, source in zip(row, study.sources, strict=True):
            for number, one in enumerate(one for one in made if one.experiment == source.experiment):
                shown[one.policy] = axes.errorbar(
                    1 - one.saved.value,
                    one.accuracy.value,
                    xerr=_ends(one.saved),
                    yerr=_ends(one.accuracy),
                    color=COLOURS[number % len(COLOURS)],
                    marker=MARKERS[(number + 3 * (number // len(COLOURS))) % len(MARKERS)],
                    linestyle="none",
                    markersize=5,
                    elinewidth=0.7,
                )
            for curve in curves_of(study, source.experiment).values():
                points = _curve(curve)
                axes.plot(*zip(*points, strict=True), ".", color="0.6", zorder=0)
                (line,) = axes.plot(
                    *zip(*hull(*zip(*points, strict=True)), strict=True), color="0.7", linewidth=1, zorder=0
                )
                shown["the press's own ratios and their mixtures"] = line
            axes.set_title(source.model)
            axes.set_xlabel("entries × steps, relative to the full cache")
        row[0].set_ylabel("share that ends right")
        legend_above(figure, shown)
    return figure


def _ends(value) -> list[list[float]]:
    if value.low is None:
        return [[0.0], [0.0]]
    return [[max(0.0, value.value - value.low)], [max(0.0, value.high - value.value)]]


def _curve(curve: Mapping[float, Sequence[CurvePoint]]) -> list[tuple[float, float]]:
    """A condition's press at its ratios: mean entries × steps relative to the full cache, and accuracy."""
    means = {
        ratio: np.mean([(one.entry_steps, one.correct) for one in points], axis=0)
        for ratio, points in curve.items()
    }
    full = means[0.0][0]
    return sorted((float(held / full), float(right)) for held, right in means.values())
