"""Figures, drawn with seaborn from `frames.runs`; `save` writes them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kvhelpers import estimates
from kvhelpers.format import DAGGER
from kvhelpers.paths import write_atomic
from kvhelpers.stats import wilson

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


LOOKS = (("press alone", COLOURS[3], "-"), ("guarded", COLOURS[0], "-"), ("full cache", "0.5", "--"))


def guarded_run(
    risk: Mapping[str, Sequence[float]],
    entries: Mapping[str, Sequence[float]],
    entry_bytes: float,
    alarm: int | None,
) -> Figure:
    """Risk and memory of a run by the tokens that it generated, those taken back included.

    ``risk`` and ``entries`` are values ``[T]`` by the names of `LOOKS`; ``alarm`` is the token at which the
    guard acted.
    """
    looks = {name: (colour, style) for name, colour, style in LOOKS}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        shown = {}
        for axes, series, scale in ((above, risk, 1.0), (below, entries, entry_bytes / 2**20)):
            for name, values in series.items():
                colour, style = looks[name]
                (shown[name],) = axes.plot(
                    range(len(values)), [scale * value for value in values], style, color=colour
                )
            if alarm is not None:
                shown["action"] = axes.axvline(alarm, color="0.2", linestyle=":")
        above.set_ylabel("risk of failure")
        above.set_ylim(0, 1)
        below.set_ylabel("cache (MiB)")
        below.set_ylim(0, None)
        below.set_xlabel("tokens generated")
        legend_above(figure, shown)
    return figure


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
