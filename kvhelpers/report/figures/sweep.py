"""Figures over many conditions: rates against kept tokens, and the cache while the answer is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kvhelpers.analysis.half_accuracy import Curve
from kvhelpers.experiment.results import ConditionResult
from kvhelpers.records import Record
from kvhelpers.report.figures.style import COLOURS, STYLE, wrapped

COLUMNS = 4
MARKERS = "osD^vPX*<>"
RATES = {"accuracy": "accuracy", "cfr": "catastrophic failure rate", "looping": "looping"}


@dataclass(frozen=True)
class Panel:
    """A panel's title, its vertical axis, and its lines: a curve, the rate it shows, and its label. The last
    panel of a press has the legend for all of them.
    """

    title: str
    axis: str
    lines: list[tuple[Curve, str, str]]
    is_last: bool = True


def rates_by_kept(curves: Sequence[Curve], baseline: ConditionResult | None) -> Figure | None:
    """Rates against kept tokens with Wilson 95 % bands, one panel per press; None without a curve of two
    conditions.

    A press whose own fields vary has a row of panels, one for each rate, with a line for each of its
    settings; another has all rates in one panel.
    """
    by_press: dict[str, list[Curve]] = {}
    for curve in curves:
        if len(curve.results) > 1:
            by_press.setdefault(curve.press, []).append(curve)
    if not by_press:
        return None
    panels = [panel for members in by_press.values() for panel in _panels(members)]
    several = any(len(members) > 1 for members in by_press.values())
    columns = len(RATES) if several else min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    with matplotlib.rc_context(STYLE):
        width = 3.1 * columns + (0.6 if columns > 2 else 2.6)  # few panels have their legend beside them
        figure = Figure(figsize=(width, 2.7 * rows + 0.7), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes, panel in zip(grid.flat, panels, strict=False):
            _draw_panel(axes, panel, baseline)
            if several and panel.is_last:
                axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.02, 0.5))
        for axes in grid.flat[len(panels) :]:
            axes.remove()
        if not several:
            handles, labels = grid.flat[0].get_legend_handles_labels()
            above = {"loc": "outside upper center", "ncols": 3}
            place = above if columns > 2 else {"loc": "outside right upper"}
            figure.legend(handles, labels, frameon=False, **place)
    return figure


def _panels(members: Sequence[Curve]) -> list[Panel]:
    """The panels of one press."""
    first = members[0]
    n = f"(n = {first.results[0].summary.n})"
    if len(members) == 1:
        lines = [(first, rate, title) for rate, title in RATES.items()]
        return [Panel(f"{first.name} {n}", "share of runs", lines)]
    return [
        Panel(
            f"{first.press} {n}",
            title,
            [(curve, rate, curve.fields or "default fields") for curve in members],
            is_last=rate == list(RATES)[-1],
        )
        for rate, title in RATES.items()
    ]


def _draw_panel(axes: Axes, panel: Panel, baseline: ConditionResult | None) -> None:
    lines = panel.lines
    palette = COLOURS if len(lines) <= 3 else sns.color_palette("viridis", len(lines))
    for (curve, rate, label), colour, marker in zip(lines, palette, MARKERS, strict=False):
        kept, results = _with_baseline(curve, baseline)
        rates = [getattr(result.summary, rate) for result in results]
        look = {"marker": marker, "markersize": 4, "color": colour, "clip_on": False}
        axes.plot(kept, [rate.rate for rate in rates], label=wrapped(label, 28), **look)
        low, high = [rate.low for rate in rates], [rate.high for rate in rates]
        axes.fill_between(kept, low, high, color=colour, alpha=0.13, linewidth=0)
    axes.set_xscale("log", base=2)
    ticks = sorted({round(kept) for curve, *_ in lines for kept in _with_baseline(curve, baseline)[0]})
    axes.set_xticks(ticks, [str(tick) for tick in ticks], rotation=45, fontsize="small")
    axes.minorticks_off()
    axes.set(ylim=(-0.03, 1.03), xlabel="kept tokens of the prompt (log scale)", ylabel=panel.axis)
    axes.set_title(panel.title, fontsize="medium")
    axes.grid(alpha=0.3)


def _with_baseline(
    curve: Curve, baseline: ConditionResult | None
) -> tuple[list[float], list[ConditionResult]]:
    if baseline is None:
        return curve.kept, list(curve.results)
    return [baseline.summary.prompt_tokens, *curve.kept], [baseline, *curve.results]


def cache_over_time(results: Sequence[ConditionResult]) -> Figure | None:
    """Cached tokens at each new token, means over the runs that get so far; None if no condition compresses
    while decoding.
    """
    cutting = [result for result in results if any(record.compressions for record in result.records)]
    if not cutting:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 4.2), layout="constrained")
        axes = figure.subplots()
        palette = sns.color_palette("colorblind", len(cutting))
        for result, colour, marker in zip(cutting, palette, MARKERS * len(cutting), strict=False):
            sizes = [cached_tokens(record) for record in result.records if record.cache]
            longest = max(map(len, sizes))
            padded = np.array(
                [np.pad(size, (0, longest - len(size)), constant_values=np.nan) for size in sizes]
            )
            mean = np.nansum(padded, axis=0) / (~np.isnan(padded)).sum(0)
            look = {"color": colour, "marker": marker, "markevery": (5, 20), "markersize": 4}
            axes.plot(np.arange(longest), mean, label=result.label, **look)
        axes.set(xlabel="new token", ylabel="cached tokens (mean over runs)", ylim=(0, None))
        axes.grid(alpha=0.3)
        figure.legend(loc="outside lower center", frameon=False, fontsize="small")
    return figure


def cached_tokens(record: Record) -> np.ndarray:
    """Tokens in the cache when each new token is chosen, ``[n_tokens]``, mean over layers."""
    size, cuts = record.cache.kept_tokens, {cut.step: cut.after for cut in record.compressions}
    sizes = []
    for step in range(record.n_tokens):
        sizes.append(size)
        size = cuts.get(step + 1, size + 1)
    return np.array(sizes, dtype=float)
