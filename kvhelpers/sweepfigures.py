"""Figures over many cells: rates against kept tokens, and the cache while the answer is written."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from kvhelpers.cliff import Curve
from kvhelpers.figures import COLOURS, STYLE, wrapped
from kvhelpers.results import CellResult

COLUMNS = 4
MARKERS = "osD^vPX*<>"
RATES = {"accuracy": "accuracy", "cfr": "catastrophic failure rate", "looping": "looping"}


def rates_by_kept(curves: Sequence[Curve], baseline: CellResult | None) -> Figure | None:
    """Rates against kept tokens with Wilson 95 % bands, one panel per press; None without a curve of two cells.

    A press whose own fields vary has a row of panels, one for each rate, with a line for each of its settings; another has all
    rates in one panel.
    """
    by_press: dict[str, list[Curve]] = {}
    for curve in curves:
        if len(curve.cells) > 1:
            by_press.setdefault(curve.press, []).append(curve)
    if not by_press:
        return None
    panels = []
    for press, members in by_press.items():
        if len(members) == 1:
            lines = [(members[0], rate, title) for rate, title in RATES.items()]
            panels.append((f"{members[0].name} (n = {members[0].cells[0].summary['n']})", "share of runs", lines))
        else:
            for rate, title in RATES.items():
                lines = [(curve, rate, curve.fields) for curve in members]
                panels.append((f"{press} (n = {members[0].cells[0].summary['n']})", title, lines))
    several = any(len(members) > 1 for members in by_press.values())
    columns = len(RATES) if several else min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.1 * columns + 0.6, 2.7 * rows + 0.7), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes, (title, rate_name, lines) in zip(grid.flat, panels, strict=False):
            palette = COLOURS if len(lines) <= 3 else sns.color_palette("viridis", len(lines))
            for (curve, rate, label), colour, marker in zip(lines, palette, MARKERS, strict=False):
                _line(axes, curve, baseline, rate, label, colour, marker)
            axes.set_xscale("log", base=2)
            ticks = sorted({round(kept) for curve, *_ in lines for kept in _with_baseline(curve, baseline)[0]})
            axes.set_xticks(ticks, [str(tick) for tick in ticks], rotation=45, fontsize="small")
            axes.minorticks_off()
            axes.set(ylim=(-0.03, 1.03), xlabel="kept tokens of the prompt (log scale)", ylabel=rate_name)
            axes.set_title(title, fontsize="medium")
            axes.grid(alpha=0.3)
            if several:
                axes.legend(frameon=False, fontsize="xx-small")
        for axes in grid.flat[len(panels) :]:
            axes.remove()
        if not several:
            figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return figure


def _with_baseline(curve: Curve, baseline: CellResult | None) -> tuple[list[float], list[CellResult]]:
    if baseline is None:
        return curve.kept, list(curve.cells)
    return [baseline.summary["prompt_tokens"], *curve.kept], [baseline, *curve.cells]


def _line(axes, curve: Curve, baseline: CellResult | None, rate: str, label: str, colour, marker: str) -> None:
    kept, cells = _with_baseline(curve, baseline)
    rates = [cell.summary[rate] for cell in cells]
    axes.plot(
        kept, [one["rate"] for one in rates], marker=marker, markersize=4, color=colour, label=wrapped(label, 28), clip_on=False
    )
    axes.fill_between(kept, *([one[end] for one in rates] for end in ("low", "high")), color=colour, alpha=0.13, linewidth=0)


def cache_over_time(cells: Sequence[CellResult]) -> Figure | None:
    """Cached tokens at each new token, means over the runs that get so far; None if no cell compresses while decoding."""
    cutting = [cell for cell in cells if any(record.get("compressions") for record in cell.records)]
    if not cutting:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 4.2), layout="constrained")
        axes = figure.subplots()
        palette = sns.color_palette("colorblind", len(cutting))
        for cell, colour, marker in zip(cutting, palette, MARKERS * len(cutting), strict=False):
            sizes = [cached_tokens(record) for record in cell.records if record["cache"]]
            longest = max(map(len, sizes))
            padded = np.array([np.pad(one, (0, longest - len(one)), constant_values=np.nan) for one in sizes])
            runs = (~np.isnan(padded)).sum(0)
            mean = np.nansum(padded, axis=0) / runs
            axes.plot(np.arange(longest), mean, color=colour, marker=marker, markevery=(5, 20), markersize=4, label=cell.label)
        axes.set(xlabel="new token", ylabel="cached tokens (mean over runs)", ylim=(0, None))
        axes.grid(alpha=0.3)
        figure.legend(loc="outside lower center", frameon=False, fontsize="small")
    return figure


def cached_tokens(record) -> np.ndarray:
    """Tokens in the cache when each new token is chosen, ``[n_tokens]``, mean over layers."""
    size, cuts = record["cache"]["kept_tokens"], {cut["step"]: cut["after"] for cut in record.get("compressions", [])}
    sizes = []
    for step in range(record["n_tokens"]):
        sizes.append(size)
        size = cuts.get(step + 1, size + 1)
    return np.array(sizes, dtype=float)
