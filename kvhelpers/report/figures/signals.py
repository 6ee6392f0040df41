"""Figures of signals and failures over many runs, as matplotlib objects; `style.save` writes them."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from kvhelpers.analysis.discriminators import WITHIN
from kvhelpers.records import FailureMode
from kvhelpers.report.figures.style import AXIS, COLOURS, DIGITS, STYLE, wrapped

MODE_COLOURS = dict(zip(FailureMode, [*(COLOURS[i] for i in (2, 8, 1, 4, 3)), "0.6"], strict=True))
HATCHES = dict(zip(FailureMode, ("", "..", "//", "xx", "", "oo"), strict=True))
SHOWN = 12  # conditions in a heat map


def conditions_to_show(runs: pd.DataFrame) -> list[str]:
    """All conditions, or the 12 in which the looping runs and the others are nearest in number, in the order
    of the table.
    """
    labels = list(dict.fromkeys(runs["condition"]))
    looping = runs["onset"].notna().groupby(runs["condition"]).mean()
    chosen = sorted(labels, key=lambda label: abs(looping[label] - 0.5))[:SHOWN]
    return [label for label in labels if label in chosen]


def heat_map(runs: pd.DataFrame, entropy: np.ndarray) -> Figure:
    """All runs of a condition, a row each: entropy by token, the loop's onset (cross) and the run's end by
    itself (dot).

    Of more than 12 conditions, those of `conditions_to_show`.
    """
    labels = conditions_to_show(runs)
    columns = min(2, len(labels))
    rows = -(-len(labels) // columns)
    heights = [
        max((runs["condition"] == label).sum() for label in labels[row * columns : (row + 1) * columns])
        for row in range(rows)
    ]
    finite = entropy[np.isfinite(entropy)]
    top = float(np.quantile(finite, 0.99)) if len(finite) else 1.0
    with matplotlib.rc_context(STYLE):
        height = sum(max(2.3, 0.9 + 0.045 * height) for height in heights) + 0.4
        figure = Figure(figsize=(4.6 * columns + 0.8, height), layout="constrained")
        ratios = {"height_ratios": [height + 8 for height in heights]}
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, gridspec_kw=ratios)
        for axes, label in zip(grid.flat, labels, strict=False):
            image = _heat_rows(axes, runs[runs["condition"] == label], runs.index, entropy, top)
        for axes in grid.flat[len(labels) :]:
            axes.remove()
        for axes in grid[-1] if len(labels) == rows * columns else [*grid[-1][:1], *grid[-2][1:]]:
            axes.set_xlabel("new token")
            axes.tick_params(labelbottom=True)
        beside = list(grid.flat[: len(labels)])
        figure.colorbar(image, ax=beside, label=AXIS["entropy"], extend="max", shrink=0.6, aspect=40)
    return figure


def _heat_rows(axes: Axes, runs: pd.DataFrame, index: pd.Index, entropy: np.ndarray, top: float) -> AxesImage:
    """One condition's runs by onset; ``index`` is that of the rows of ``entropy``; ``top`` ends the scale."""
    by_onset = runs.assign(at=runs["onset"].astype(float).fillna(np.inf))
    runs = runs.loc[by_onset.sort_values(["at", "tokens"], kind="stable").index]
    image = axes.imshow(
        entropy[index.get_indexer(runs.index)].round(DIGITS),
        aspect="auto",
        interpolation="none",
        cmap="viridis",
        vmin=0,
        vmax=max(top, 1e-9),
    )
    runs = runs.reset_index(drop=True)
    loops, ends = runs[runs["onset"].notna()], runs[runs["ended"]]
    for colour, size, width in (("white", 4, 1.6), (COLOURS[3], 3.4, 0.9)):
        onsets = loops["onset"].astype(float)
        axes.plot(onsets, loops.index, "x", color=colour, markersize=size, markeredgewidth=width)
    axes.plot(ends["tokens"], ends.index, ".", color="0.2", markersize=3)
    axes.set_xlim(-0.5, entropy.shape[1] - 0.5)
    title = f"{runs['condition'].iloc[0]} ({len(runs)} runs, {len(loops)} loop)"
    axes.set_title(wrapped(title, 44), fontsize="small")
    axes.set_ylabel("run")
    axes.set_yticks([])
    return image


def aligned(tables: dict[str, pd.DataFrame]) -> Figure:
    """Mean signals around the loop's onset in looping runs and in their controls, with 95 % bands, and n
    below.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 1.9 * len(tables) + 1.4), layout="constrained")
        *panels, counts = figure.subplots(
            len(tables) + 1, 1, sharex=True, height_ratios=[3] * len(tables) + [1]
        )
        for axes, (name, table) in zip(panels, tables.items(), strict=True):
            table = table.round(DIGITS)
            for column, colour, style, label in (
                ("looping", COLOURS[3], "-", "looping runs"),
                (
                    "control",
                    COLOURS[0],
                    "--",
                    "runs of the same condition that never loop, at the same token",
                ),
            ):
                axes.plot(table["offset"], table[column], style, color=colour, label=label)
                axes.fill_between(
                    table["offset"],
                    table[f"{column}_low"],
                    table[f"{column}_high"],
                    color=colour,
                    alpha=0.2,
                    linewidth=0,
                )
            axes.axvline(0, color="0.35", linestyle=":")
            axes.set_ylabel(AXIS[name])
            axes.set_ylim(bottom=0)
        counts.fill_between(table["offset"], table["n"], step="mid", color="0.75")
        counts.set(ylabel="runs", xlabel="tokens from the loop's onset", ylim=(0, None))
        counts.axvline(0, color="0.35", linestyle=":")
        figure.legend(
            *panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False
        )
    return figure


def mode_bars(runs: pd.DataFrame) -> Figure:
    """Share of each failure mode, a stacked bar per condition."""
    labels = list(dict.fromkeys(runs["condition"]))
    counts = pd.crosstab(runs["condition"], runs["mode"]).reindex(index=labels)
    counts = counts.reindex(columns=[mode for mode in FailureMode if mode in counts])
    shares, left = counts.div(counts.sum(axis=1), axis=0), np.zeros(len(counts))
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.2}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 0.42 * len(counts) + 1.5), layout="constrained")
        axes = figure.subplots()
        for mode in counts:
            look = {"color": MODE_COLOURS[mode], "hatch": HATCHES[mode], "edgecolor": "white"}
            axes.barh(range(len(counts)), shares[mode], left=left, label=mode, **look)
            for place, (count, share, start) in enumerate(zip(counts[mode], shares[mode], left, strict=True)):
                if share >= 0.05:
                    middle = start + share / 2
                    axes.text(middle, place, str(count), ha="center", va="center", size="small", bbox=box)
            left += shares[mode].to_numpy()
        names = [wrapped(f"{label} (n = {n})", 52) for label, n in counts.sum(axis=1).items()]
        axes.set_yticks(range(len(counts)), names, size="small")
        axes.set(
            ylim=(len(counts) - 0.5, -0.5), xlim=(0, 1), xlabel="share of runs (number of runs in the bar)"
        )
        figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def discriminator_dots(table: pd.DataFrame) -> Figure:
    """AUROC of each number of a run by outcome, pairs within conditions, dots with 95 % intervals."""
    table = table[(table["among"] == WITHIN) & table["auroc"].notna()]
    outcomes, features = list(dict.fromkeys(table["outcome"])), list(dict.fromkeys(table["feature"]))
    with matplotlib.rc_context(STYLE):
        figure = Figure(
            figsize=(3 * max(1, len(outcomes)) + 2, 0.24 * len(features) + 1), layout="constrained"
        )
        grid = figure.subplots(1, max(1, len(outcomes)), sharey=True, squeeze=False)[0]
        for axes, outcome in zip(grid, outcomes, strict=False):
            part = table[table["outcome"] == outcome].set_index("feature").reindex(features)
            place = range(len(features))
            axes.hlines(place, part["low"], part["high"], color=COLOURS[0])
            axes.plot(part["auroc"], place, "o", color=COLOURS[0], markersize=4)
            axes.axvline(0.5, color="0.35", linestyle=":")
            axes.set(
                xlim=(0, 1),
                ylim=(len(features) - 0.5, -0.5),
                xlabel="AUROC within conditions",
                yticks=place,
                yticklabels=features,
            )
            axes.set_title(outcome, fontsize="medium")
            axes.grid(axis="x", alpha=0.3)
    return figure
