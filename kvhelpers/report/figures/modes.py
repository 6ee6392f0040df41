"""The figure of failure modes: what became of the runs of each condition."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from kvhelpers.presses.registry import NONE
from kvhelpers.records import FailureMode
from kvhelpers.report.figures.labels import pieces, shortened
from kvhelpers.report.figures.style import (
    COLOURS,
    HEALTHY,
    HEIGHT,
    LOOPING,
    STYLE,
    WIDTH,
    legend_above,
    marked,
    note_daggers,
    wrapped,
)

LOOKS = {
    FailureMode.CORRECT: (HEALTHY, ""),
    FailureMode.CORRUPTION: (COLOURS[8], ".."),
    FailureMode.AMNESIA: (COLOURS[1], "//"),
    FailureMode.NON_TERMINATION: (COLOURS[4], "xx"),
    FailureMode.LOOPING: (LOOPING, "||"),
    FailureMode.ERRORED: ("0.6", "oo"),
}
COLUMNS = 2
BAR = 0.19  # inches
COUNTED = 0.09  # smaller shares have no room for their number


def mode_bars(runs: pd.DataFrame) -> Figure:
    """Share of each failure mode, a stacked bar per condition; a panel per press, with the uncompressed runs
    above its own. A condition that is not valid has a dagger.
    """
    presses = [press for press in dict.fromkeys(runs["press"]) if press != NONE] or [NONE]
    panels = dict(_panel(runs, press) for press in presses)
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    lines = [_lines(counts.index) for counts in panels.values()]
    heights = [max(lines[row * columns : (row + 1) * columns]) for row in range(rows)]
    titles = max(1 + title.count("\n") for title in panels)
    modes = [mode for mode in FailureMode if (runs["mode"] == mode).any()]
    with matplotlib.rc_context(STYLE):
        height = min(HEIGHT, BAR * sum(heights) + (0.25 + 0.13 * titles) * rows + 0.9)
        figure = Figure(figsize=(WIDTH if columns > 1 else 5.5, height), layout="constrained")
        ratios = [height + 1 for height in heights]
        grid = figure.subplots(rows, columns, squeeze=False, height_ratios=ratios)
        for number, (axes, (title, counts)) in enumerate(zip(grid.flat, panels.items(), strict=False)):
            _draw(axes, counts, modes, max(0.4, 0.8 * lines[number] / heights[number // columns]))
            axes.set_title(title)
        for axes in grid.flat[len(panels) :]:
            axes.remove()
        figure.supxlabel("share of runs (in the bars: their number)", size=9)
        shown: dict[str, Artist] = {mode: Patch(**_look(mode)) for mode in modes}
        labels = [label for counts in panels.values() for label in counts.index]
        legend_above(figure, shown | note_daggers(labels))
    return figure


def _lines(labels: Sequence[str]) -> float:
    """The height of a panel in bars of one line each; all its bars are as high as the longest label wants."""
    return len(labels) * (0.4 + 0.6 * max(1 + label.count("\n") for label in labels))


def _panel(runs: pd.DataFrame, press: str) -> tuple[str, pd.DataFrame]:
    """A press's title, and its conditions' numbers of runs by mode, a row each by their short labels."""
    own = runs[runs["press"].isin([NONE, press])]
    valid = own.groupby("condition", sort=False)["valid"].first()
    counts = pd.crosstab(own["condition"], own["mode"]).reindex(index=valid.index)
    common, names = _short_names(own.loc[own["press"] == press, "condition"].unique(), press)
    n = counts.sum(axis=1)
    same_n = f" (n = {n.iloc[0]})" if n.nunique() == 1 else ""
    labels = [
        marked(names.get(label, label), is_valid) + ("" if same_n else f" (n = {n[label]})")
        for label, is_valid in valid.items()
    ]
    counts.index = [wrapped(label, 27) for label in labels]
    title = wrapped((f"{press} ({common})" if common else press) + same_n, 26)
    return title, counts


def _short_names(labels: Sequence[str], press: str) -> tuple[str, dict[str, str]]:
    """The fields that all of a press's conditions have, and by label their amount and the other fields."""
    parts = [pieces(label) for label in labels]
    common, fields = shortened([", ".join(of_label[1:]) for of_label in parts])
    amounts = [of_label[0].removeprefix(press).strip() for of_label in parts]
    if set(amounts) == {"0"} and all(fields):
        return common, dict(zip(labels, fields, strict=True))
    names = [", ".join(filter(None, both)) for both in zip(amounts, fields, strict=True)]
    return common, dict(zip(labels, (name or press for name in names), strict=True))


def _draw(axes: Axes, counts: pd.DataFrame, modes: Sequence[FailureMode], thickness: float) -> None:
    """One panel's bars, the first condition on top; ``thickness`` of the place that each of them has."""
    places, left = np.arange(len(counts)), np.zeros(len(counts))
    shares = counts.div(counts.sum(axis=1), axis=0)
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.8}
    for mode in modes:
        if mode not in counts:
            continue
        bars = axes.barh(places, shares[mode], thickness, left, label=mode, **_look(mode))
        numbers = counts[mode].where(shares[mode] >= COUNTED, "")
        for text in axes.bar_label(bars, numbers, label_type="center", fontsize=7):
            text.set_bbox(box if text.get_text() else None)
        left += shares[mode].to_numpy()
    axes.set_yticks(places, counts.index, fontsize=8)
    axes.set(xlim=(0, 1), ylim=(len(counts) - 0.5, -0.5))


def _look(mode: FailureMode) -> dict[str, object]:
    colour, hatch = LOOKS[mode]
    return {"facecolor": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.5}
