"""Figures, drawn with seaborn from `frames.runs`; `save` writes them."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kvhelpers import estimates
from kvhelpers.report.figures.style import (
    AXIS,
    DIGITS,
    HEALTHY,
    HEIGHT,
    LOOPING,
    NOT_VALID,
    STYLE,
    WIDTH,
    entries,
    legend_above,
    marked,
    note_daggers,
    save,
    wrapped,
)
from kvhelpers.stats import wilson

__all__ = ["by_condition", "by_kept", "heat_map", "rates", "save", "wilson_ends"]

OUTCOMES = {"accuracy": "correct", "catastrophic failure": "catastrophic", "looping": "looping"}
SHADES = dict(zip(OUTCOMES, (HEALTHY, "0.25", LOOPING), strict=True))
SHARE = "share of runs"
PANELS = 9  # presses with a panel each, at most
POINTS = 3  # conditions of a press that make a curve


def wilson_ends(outcomes: Sequence[bool]) -> tuple[float, float]:
    """Both ends of the Wilson 95 % interval of a share, as seaborn's ``errorbar`` takes them."""
    rate = wilson(int(sum(outcomes)), len(outcomes))
    return rate.low, rate.high


def rates(runs: pd.DataFrame, shown: Sequence[str]) -> Figure:
    """`by_kept` where presses have curves, else `by_condition` of the conditions that are ``shown``."""
    parts = [part.assign(curve=name) for name, part in estimates.curves(runs)]
    drawn = [part for part in parts if part["condition"].nunique() >= POINTS]
    if 0 < len(drawn) <= PANELS:
        return by_kept(pd.concat(drawn), runs)
    return by_condition(runs[runs["condition"].isin(shown)])


def _long(runs: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """A row per run and outcome: its share, 0 or 1."""
    parts = {title: runs[column].astype(float) for title, column in OUTCOMES.items()}
    return runs[list(names)].assign(**parts).melt(list(names), list(OUTCOMES), "outcome", SHARE)


def by_condition(runs: pd.DataFrame) -> Figure:
    """Accuracy, catastrophic failures and loops of each condition, dots with Wilson 95 % intervals;
    conditions that are not valid have a dagger.
    """
    rows = [wrapped(marked(*one)) for one in zip(runs["condition"], runs["valid"], strict=True)]
    look = {"errorbar": wilson_ends, "markers": list("osD"), "dodge": 0.4, "linestyle": "none"}
    look |= {"palette": SHADES, "err_kws": {"linewidth": 1.2}}
    with matplotlib.rc_context(STYLE):
        height = min(HEIGHT, 0.45 * len(set(rows)) + 1.1)
        figure, axes = plt.subplots(figsize=(WIDTH, height), layout="constrained")
        sns.pointplot(_long(runs.assign(row=rows), ["row"]), x=SHARE, y="row", hue="outcome", ax=axes, **look)
        axes.set(xlim=(-0.02, 1.02), ylabel="", xlabel="share of runs, with Wilson 95 % interval")
        axes.grid(axis="x", alpha=0.3)
        legend_above(figure, entries(axes) | note_daggers(rows))
        plt.close(figure)
    return figure


def by_kept(compressed: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """The same against kept tokens, a panel per press (the column ``curve``), the uncompressed ``runs`` of
    the same prompts among them; crosses are conditions that are not valid.
    """
    twins = compressed.drop_duplicates(["curve", "baseline"]).dropna(subset="baseline")
    plain = runs.set_index("run").loc[twins["baseline"]].assign(curve=twins["curve"].to_numpy())
    both = pd.concat([plain, compressed], ignore_index=True)
    both["kept"] = both.groupby(["curve", "condition"])["kept_tokens"].transform("mean")
    shown, panels = _long(both, ["curve", "kept", "valid"]), both["curve"].nunique()
    look = {"hue": "outcome", "style": "outcome", "markers": list("osD"), "palette": SHADES}
    look |= {"errorbar": wilson_ends, "col": "curve", "col_wrap": min(3, panels), "kind": "line"}
    with matplotlib.rc_context(STYLE):
        grid = sns.relplot(shown, x="kept", y=SHARE, col_order=compressed["curve"].unique(), **look)
        for name, axes in grid.axes_dict.items():
            own = shown[shown["curve"] == name]
            void = own[~own["valid"]].groupby(["outcome", "kept"], as_index=False)[SHARE].mean()
            shades = void["outcome"].map(SHADES)
            axes.scatter(void["kept"], void[SHARE], c=list(shades), marker="x", s=60, zorder=4)
            ticks = _apart(own["kept"])
            axes.set_xscale("log", base=2)
            axes.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks], rotation=45, fontsize=8)
            axes.set(title=wrapped(name, 30), ylim=(-0.03, 1.03))
            axes.tick_params(labelbottom=True)
            axes.grid(alpha=0.3)
        grid.set_axis_labels("kept tokens (log scale)", SHARE)
        marks = dict(zip(OUTCOMES, grid.legend.legend_handles, strict=True))
        grid.legend.remove()
        grid.figure.set(layout_engine="constrained", size_inches=(WIDTH, 2.2 * -(-panels // 3) + 0.6))
        void = {NOT_VALID: Line2D([], [], linestyle="none", marker="x", color="0.1")}
        legend_above(grid.figure, marks | ({} if both["valid"].all() else void))
        plt.close(grid.figure)
    return grid.figure


def _apart(places: Sequence[float]) -> list[float]:
    """The places, from the largest, without those that a label would overlap."""
    ticks: list[float] = []
    for place in sorted(set(places), reverse=True):
        if not ticks or ticks[-1] > 1.22 * place:
            ticks.append(place)
    return ticks


def heat_map(runs: pd.DataFrame, signal: pd.DataFrame, most: int = 6) -> Figure:
    """Entropy by token (`signals.wide`), a row per run, a panel per condition: a loop's onset is a cross, an
    end by itself a dot; looping runs are on top, by onset. Of more than ``most`` conditions, those in which
    about half of the runs loop.
    """
    looping = runs["onset"].notna().groupby(runs["condition"], sort=False).mean()
    chosen = looping.sub(0.5).abs().sort_values(kind="stable").index[:most]
    labels = [label for label in looping.index if label in chosen]
    values = signal.to_numpy(float)
    top = float(np.nanquantile(values, 0.99)) if np.isfinite(values).any() else 1.0
    columns = min(2, len(labels))
    rows = -(-len(labels) // columns)
    with matplotlib.rc_context(STYLE):
        size = {"figsize": (WIDTH, 2.4 * rows + 0.6), "layout": "constrained"}
        figure, grid = plt.subplots(rows, columns, squeeze=False, sharex=True, **size)
        for axes, label in zip(grid.flat, labels, strict=False):
            part = runs.assign(place=range(len(runs)), at=runs["onset"].astype(float))
            part = part[part["condition"] == label].sort_values(["at", "tokens"], kind="stable")
            part = part.reset_index(drop=True)
            shades = {"aspect": "auto", "interpolation": "none", "vmin": 0, "vmax": max(top, 1e-9)}
            image = axes.imshow(values[part["place"]].round(DIGITS), **shades)
            ends = part[part["ended"]]
            axes.plot(part["at"], part.index, "x", color=LOOPING, markersize=3.4)
            axes.plot(ends["tokens"], ends.index, ".", color="0.1", markersize=3)
            name = wrapped(marked(label, part["valid"].all()), 50)
            axes.set(title=f"{name}\n{len(part)} runs, {part['at'].count()} loop", ylabel="run", yticks=[])
            axes.set(xlim=(-0.5, values.shape[1] - 0.5), xlabel="new token")
        for axes in grid.flat[len(labels) :]:
            axes.remove()
        bar = {"label": AXIS["entropy"], "extend": "max", "shrink": 0.6}
        figure.colorbar(image, ax=list(grid.flat[: len(labels)]), **bar)
        plt.close(figure)
    return figure
