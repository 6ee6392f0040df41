"""Accuracy against memory over time, as matplotlib objects; `style.save` writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from kvhelpers.guard.frontier import Spot, curves_of, hull, spots
from kvhelpers.guard.live_study import CurvePoint, LiveStudy
from kvhelpers.report.figures.style import COLOURS, MARKERS, STYLE, WIDTH, legend_above, spread_of


def frontier_figure(study: LiveStudy) -> Figure:
    """Accuracy against the share of the full cache's entries × steps, a row a source, a panel a guarded
    condition, a marker a policy with 95 % intervals over prompts; grey are the press at its own ratios, and
    the best mixtures of these that hold no more.
    """
    with matplotlib.rc_context(STYLE):
        columns = max(len(source.conditions) for source in study.sources)
        figure = Figure(figsize=(WIDTH, 2.0 + 2.8 * len(study.sources)), layout="constrained")
        grid = figure.subplots(len(study.sources), columns, squeeze=False, sharex="row", sharey=True)
        shown = {}
        for row, source in zip(grid, study.sources, strict=True):
            made, curves = spots(study, source.experiment), curves_of(study, source.experiment)
            for axes, label in zip(row, source.conditions, strict=False):
                shown |= _panel(axes, [one for one in made if one.condition == label], curves[label])
                axes.set_title(label)
            for axes in row[len(source.conditions) :]:
                axes.set_visible(False)
            row[0].set_ylabel(f"{source.model}\nshare that ends right")
            row[len(source.conditions) // 2].set_xlabel("entries × steps, relative to the full cache")
        legend_above(figure, shown)
    return figure


def _panel(axes, made: Sequence[Spot], curve: Mapping[float, Sequence[CurvePoint]]) -> dict:
    shown = {}
    for number, one in enumerate(made):
        shown[one.policy] = axes.errorbar(
            one.held.value,
            one.accuracy.value,
            xerr=spread_of([one.held]),
            yerr=spread_of([one.accuracy]),
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[(number + 3 * (number // len(COLOURS))) % len(MARKERS)],
            linestyle="none",
            markersize=5,
            elinewidth=0.7,
        )
    points = _curve(curve)
    best = hull(*zip(*points, strict=True))
    best.append((max(held for held, _ in points), best[-1][1]))
    axes.plot(*zip(*points, strict=True), ".", color="0.6", zorder=0)
    (line,) = axes.plot(*zip(*best, strict=True), color="0.7", linewidth=1, zorder=0)
    return shown | {"the press's own ratios": line}


def _curve(curve: Mapping[float, Sequence[CurvePoint]]) -> list[tuple[float, float]]:
    """A condition's press at its ratios: mean entries × steps relative to the full cache, and accuracy."""
    means = {
        ratio: np.mean([(one.entry_steps, one.correct) for one in points], axis=0)
        for ratio, points in curve.items()
    }
    full = means[0.0][0]
    return sorted((float(held / full), float(right)) for held, right in means.values())
