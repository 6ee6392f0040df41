"""Figures, as matplotlib objects; `save` writes SVG and PNG."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from kvhelpers.paths import write_atomic
from kvhelpers.results import CellResult
from kvhelpers.tables import find_baseline, is_invalid

COLOURS = sns.color_palette("colorblind")
DIGITS = 3  # of signals in figures: the last ones depend on the machine
STYLE = {"svg.hashsalt": "kvhelpers", "svg.fonttype": "none", "axes.spines.top": False, "axes.spines.right": False}


def wrapped(label: str, width: int = 36) -> str:
    """A label in lines, so that a cell with many fields leaves room for its data."""
    return textwrap.fill(label, width)


def outcomes(cells: Sequence[CellResult]) -> Figure:
    """Accuracy and catastrophic failure rate of each cell, dots with Wilson 95 % intervals."""
    baseline = find_baseline(cells)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 0.55 * len(cells) + 1.3), layout="constrained")
        axes = figure.subplots()
        for offset, colour, marker, (name, title) in zip(
            (-0.12, 0.12), COLOURS, "os", {"accuracy": "accuracy", "cfr": "catastrophic failure rate"}.items(), strict=False
        ):
            rates = [cell.summary[name] for cell in cells]
            rate = [r["rate"] for r in rates]
            spread = [[r["rate"] - r["low"] for r in rates], [r["high"] - r["rate"] for r in rates]]
            place = [index + offset for index in range(len(cells))]
            axes.errorbar(rate, place, xerr=spread, fmt=marker, color=colour, capsize=3, label=title, clip_on=False)
        axes.set_yticks(range(len(cells)), [_cell_name(cell, baseline) for cell in cells])
        axes.set(ylim=(len(cells) - 0.5, -0.5), xlim=(0, 1), xlabel="share of runs, with Wilson 95 % interval")
        axes.grid(axis="x", alpha=0.3)
        figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def _cell_name(cell: CellResult, baseline: CellResult | None) -> str:
    return f"{wrapped(cell.label)}\n(n = {cell.summary['n']}{', not valid' if is_invalid(cell, baseline) else ''})"


def trace(runs: Sequence[tuple[str, pd.DataFrame]], onset: int | None = None) -> Figure:
    """Entropy and top-1 probability, token by token.

    ``runs`` are (label, signals of one run) pairs, the run to look at first; ``onset`` marks its loop.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 4.4), layout="constrained")
        for axes, column, title in zip(
            figure.subplots(2, 1, sharex=True), ("entropy", "top1_prob"), ("entropy (nats)", "top-1 probability"), strict=True
        ):
            for (label, signals), colour, style in zip(runs, (COLOURS[3], COLOURS[0]), ("-", "--"), strict=False):
                axes.plot(signals["step"], signals[column].round(DIGITS), style, color=colour, linewidth=1.3, label=label)
            if onset is not None:
                axes.axvline(onset, color="0.35", linestyle=":", label=f"loop onset (token {onset})")
            axes.set_ylabel(title)
            axes.set_ylim(bottom=0)
        axes.set_xlabel("new token")
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    return figure


def save(figure: Figure, folder: Path, name: str) -> Path:
    """Write ``<name>.svg`` and ``<name>.png`` and return the PNG's path. The same data give the same bytes."""
    with matplotlib.rc_context(STYLE):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # both files have the layout that was just found
        write_atomic(folder / f"{name}.svg", lambda path: figure.savefig(path, metadata={"Date": None}))
        return write_atomic(folder / f"{name}.png", lambda path: figure.savefig(path, dpi=150))
