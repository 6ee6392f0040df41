"""What all figures share: colours, style, how a label is broken, how a figure is saved."""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib
import seaborn as sns
from matplotlib.figure import Figure

from kvhelpers.paths import write_atomic

COLOURS = sns.color_palette("colorblind")
DIGITS = 3  # of signals in figures: the last ones depend on the machine
AXIS = {"entropy": "entropy (nats)", "top1_prob": "top-1 probability"}
STYLE = {
    "svg.hashsalt": "kvhelpers",
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def wrapped(label: str, width: int = 36) -> str:
    """A label in lines, so that a condition with many fields leaves room for its data."""
    return textwrap.fill(label, width)


def save(figure: Figure, folder: Path, name: str) -> Path:
    """Write ``<name>.svg`` and ``<name>.png``; return the PNG's path. The same data give the same bytes."""
    with matplotlib.rc_context(STYLE):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # both files have the layout that was just found
        write_atomic(folder / f"{name}.svg", lambda path: figure.savefig(path, metadata={"Date": None}))
        return write_atomic(folder / f"{name}.png", lambda path: figure.savefig(path, dpi=150))
