"""The figure of a sweep: rates against kept tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec

from kvhelpers.analysis.half_accuracy import Curve
from kvhelpers.experiment.results import is_invalid
from kvhelpers.report.figures.labels import shortened
from kvhelpers.report.figures.style import (
    MARKERS,
    RATES,
    STYLE,
    WIDTH,
    entries,
    legend_above,
    note_open_markers,
    open_markers,
    wrapped,
)

COLUMNS = 3
ROW = 2.15  # inches
SHADES = (("#8fd3b6", "#00402c"), ("#dfa6d3", "#4a1242"), ("#d8bd6c", "#4d3800"))  # of a press's settings
NEAR = 1.15  # ticks nearer than this factor to each other would be written over each other
RATE_LOOK = {
    "palette": {title: colour for title, colour, *_ in RATES.values()},
    "markers": {title: marker for title, _, marker, _ in RATES.values()},
    "dashes": {title: dashes for title, *_, dashes in RATES.values()},
}


def rates_by_kept(curves: Sequence[Curve]) -> Figure | None:
    """Rates against kept tokens with Wilson 95 % bands; None without a curve of two conditions.

    A press has a panel with all rates, and the legend for all such panels is above them. A press whose own
    fields vary has a row of panels instead, one for each rate, with a line for each of its settings, and its
    legend at the right end of the row. Open markers are rates that are not valid; beside a weak baseline
    those are accuracy and catastrophic failure rate, but not looping.
    """
    by_press: dict[str, list[Curve]] = {}
    for curve in curves:
        if len(curve.results) > 1:
            by_press.setdefault(curve.press, []).append(curve)
    if not by_press:
        return None
    frames = {press: _press_frame(members) for press, members in by_press.items()}
    alone = [press for press, members in by_press.items() if len(members) == 1]
    several = [press for press, members in by_press.items() if len(members) > 1]
    heights = [rows for rows in (-(-len(alone) // COLUMNS), len(several)) if rows]
    titles = {press: _title(press, members) for press, members in by_press.items()}
    with matplotlib.rc_context(STYLE):
        width = WIDTH if several else max(5.0, min(COLUMNS, len(alone)) * WIDTH / COLUMNS)
        figure = Figure(figsize=(width, ROW * sum(heights) + 0.6), layout="constrained")
        blocks = iter(figure.add_gridspec(len(heights), 1, height_ratios=heights))
        shown: dict[str, Artist] = {}
        if alone:
            shown = _panel_per_press(next(blocks), {titles[press]: frames[press] for press in alone})
        if several:
            _row_per_press(next(blocks), {titles[press]: frames[press] for press in several})
        valid = pd.concat(frames.values())["valid"]
        legend_above(figure, shown | note_open_markers(valid))
    return figure


def _title(press: str, members: Sequence[Curve]) -> str:
    common = shortened([curve.fields for curve in members])[0]
    name = f"{press} ({common})" if common else press
    return wrapped(f"{name} (n = {members[0].results[0].summary.n})", 30)


def _press_frame(members: Sequence[Curve]) -> pd.DataFrame:
    """A row per setting, condition and rate, falling in kept tokens, the baseline first: setting, kept, rate
    (its title), share, low, high, valid.
    """
    rows = []
    settings = shortened([curve.fields for curve in members])[1]
    for curve, setting in zip(members, settings, strict=True):
        points, baseline = list(zip(curve.kept, curve.results, strict=True)), curve.baseline
        if baseline is not None:
            points.insert(0, (baseline.summary.prompt_tokens, baseline))
        for kept, result in points:
            for name, (title, *_) in RATES.items():
                rate = getattr(result.summary, name)
                valid = not is_invalid(result, None if name == "looping" else baseline)
                row = (setting or "usual", kept, title, rate.rate, rate.low, rate.high, valid)
                rows.append(row)
    return pd.DataFrame(rows, columns=["setting", "kept", "rate", "share", "low", "high", "valid"])


def _panel_per_press(place: SubplotSpec, frames: Mapping[str, pd.DataFrame]) -> dict[str, Artist]:
    """Panels with all rates of a press; returns their legend."""
    columns = min(COLUMNS, len(frames))
    rows = -(-len(frames) // columns)
    grid = place.subgridspec(rows, columns).subplots(squeeze=False, sharey=True)
    shown: dict[str, Artist] = {}
    for number, (axes, (title, frame)) in enumerate(zip(grid.flat, frames.items(), strict=False)):
        shown = _draw(axes, frame, "rate", RATE_LOOK)
        is_lowest, is_first = number + columns >= len(frames), number % columns == 0
        axes.set(
            title=title,
            xlabel="kept tokens (log scale)" if is_lowest else "",
            ylabel="share of runs" if is_first else "",
        )
    for axes in grid.flat[len(frames) :]:
        axes.remove()
    return shown


def _row_per_press(place: SubplotSpec, frames: Mapping[str, pd.DataFrame]) -> None:
    """A row for each press: a panel for each rate with a line for each setting, and their legend."""
    rates = list(RATE_LOOK["palette"])
    grid = place.subgridspec(len(frames), len(rates) + 1, width_ratios=[1] * len(rates) + [0.7])
    panels = grid.subplots(squeeze=False, sharey=True)
    for row, (title, frame) in enumerate(frames.items()):
        settings = list(dict.fromkeys(frame["setting"]))
        look = {
            "palette": sns.blend_palette(SHADES[row % len(SHADES)], len(settings)),
            "markers": [MARKERS[number % len(MARKERS)] for number in range(len(settings))],
            "dashes": True,
        }
        for axes, rate in zip(panels[row], rates, strict=False):
            shown = _draw(axes, frame[frame["rate"] == rate], "setting", look)
            axes.set(
                title=rate if row == 0 else "",
                xlabel="kept tokens (log scale)" if row == len(frames) - 1 else "",
                ylabel="share of runs" if rate == rates[0] else "",
            )
        panels[row, -1].axis("off")
        panels[row, -1].legend(
            list(shown.values()),
            [wrapped(setting, 22) for setting in shown],
            title=title,
            loc="center left",
            bbox_to_anchor=(-0.15, 0.5),
            alignment="left",
            fontsize=8,
            handlelength=2.8,
        )


def _draw(axes: Axes, frame: pd.DataFrame, line: str, look: Mapping[str, Any]) -> dict[str, Artist]:
    """Lines, one for each value of the column ``line``, with their bands; returns their legend."""
    sns.lineplot(
        frame,
        x="kept",
        y="share",
        hue=line,
        style=line,
        estimator=None,
        sort=False,
        markersize=4.5,
        markeredgewidth=0,
        linewidth=1.3,
        ax=axes,
        **look,
    )
    shown = entries(axes)
    sizes = np.linspace(38, 16, frame[line].nunique())
    for (name, part), size in zip(frame.groupby(line, sort=False), sizes, strict=True):
        colour, marker = shown[name].get_color(), shown[name].get_marker()
        axes.fill_between(part["kept"], part["low"], part["high"], color=colour, alpha=0.1, linewidth=0)
        open_markers(axes, part["kept"], part["share"], part["valid"], colour, marker, size)
    axes.set_xscale("log", base=2)
    ticks = _ticks(frame["kept"])
    axes.set_xticks(ticks, [str(round(tick)) for tick in ticks], rotation=45, fontsize=8)
    axes.minorticks_off()
    axes.set_ylim(-0.03, 1.03)
    axes.grid(alpha=0.3)
    return shown


def _ticks(kept: pd.Series) -> list[float]:
    """The kept tokens, the largest first, without those that are too near to the one before."""
    ticks: list[float] = []
    for value in sorted(set(kept), reverse=True):
        if not ticks or ticks[-1] > NEAR * value:
            ticks.append(value)
    return ticks
