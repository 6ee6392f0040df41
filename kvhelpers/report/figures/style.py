"""What all figures share: sizes, colours, the mark of a condition that is not valid, legends, how a figure is
saved.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kvhelpers.paths import write_atomic
from kvhelpers.report.format import DAGGER
from kvhelpers.stats import Estimate

WIDTH, HEIGHT = 7.5, 9.0  # inches at most: read at the width of a column, on one page
LETTER = 0.068  # inches: the mean width of a letter in a legend, on the safe side
COLOURS = sns.color_palette("colorblind")
LOOPING = COLOURS[3]
HEALTHY = COLOURS[0]  # right, without a loop, uncompressed
MARKERS = "osD^vPX*<>"
DIGITS = 3  # of signals in figures: the last ones depend on the machine
AXIS = {"entropy": "entropy (nats)", "top1_prob": "top-1 probability"}
NOT_VALID = "not valid, see its flags"
STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "legend.frameon": False,
    "svg.hashsalt": "kvhelpers",
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def wrapped(label: str, width: int = 36) -> str:
    """A label in lines, so that a condition with many fields leaves room for its data; ``n = 50`` stays
    together.
    """
    return textwrap.fill(label.replace("n = ", "n\u00a0=\u00a0"), width).replace("\u00a0", " ")


def marked(label: str, is_valid: bool) -> str:
    """A condition's label; one that is not valid has a dagger, which `note_daggers` explains."""
    return label if is_valid else f"{label} {DAGGER}"


def note_daggers(labels: Sequence[str]) -> dict[str, Artist]:
    """The legend's entry for the daggers in these labels, if there are any."""
    if not any(DAGGER in label for label in labels):
        return {}
    return {NOT_VALID: Line2D([], [], linestyle="none", marker=f"${DAGGER}$", color="0.1", markersize=7)}


def entries(axes: Axes) -> dict[str, Artist]:
    """The entries of the axes' legend, which is taken away: it stands once, for all panels."""
    legend = axes.get_legend()
    if legend is None:
        return {}
    legend.remove()
    texts = [text.get_text() for text in legend.get_texts()]
    return dict(zip(texts, legend.legend_handles, strict=True))


def spread_of(values: Sequence[Estimate]) -> list[list[float]]:
    """What matplotlib's error bars take for these intervals: below and above, 0 where there is none."""
    known = [(v.value, v.low, v.high) if v.low is not None else (v.value,) * 3 for v in values]
    return [[max(0.0, v - low) for v, low, _ in known], [max(0.0, high - v) for v, _, high in known]]


def legend_above(figure: Figure, shown: Mapping[str, Artist]) -> None:
    """One legend above all panels, in as many columns as the figure has room for; nothing if it is empty."""
    if not shown:
        return
    room = figure.get_figwidth() - 0.3
    longest = int((room - 0.5) / LETTER)
    labels = [wrapped(label, longest) for label in shown]
    width = max(min(len(label), longest) for label in shown) * LETTER + 0.65
    columns = max(1, min(len(labels), int(room / width)))
    if sum(len(label) * LETTER + 0.65 for label in shown) < room:  # columns are as wide as their own entries
        columns = len(labels)
    figure.legend(list(shown.values()), labels, loc="outside upper center", ncols=columns)


def save(figure: Figure, folder: Path, name: str) -> Path:
    """Write ``<name>.svg`` and ``<name>.png``; return the PNG's path. The same data give the same bytes."""
    with matplotlib.rc_context(STYLE):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # both files have the layout that was just found
        write_atomic(folder / f"{name}.svg", lambda path: figure.savefig(path, metadata={"Date": None}))
        return write_atomic(folder / f"{name}.png", lambda path: figure.savefig(path, dpi=150))
