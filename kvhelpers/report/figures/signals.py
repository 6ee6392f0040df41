"""Figures of signals over many runs, as matplotlib objects; `style.save` writes them."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D

from kvhelpers.analysis.discriminators import WITHIN
from kvhelpers.report.figures.style import (
    AXIS,
    COLOURS,
    DIGITS,
    HEALTHY,
    HEIGHT,
    LOOPING,
    STYLE,
    WIDTH,
    entries,
    legend_above,
    marked,
    note_daggers,
    wrapped,
)

SHOWN = 6  # conditions in a heat map


def conditions_to_show(runs: pd.DataFrame) -> list[str]:
    """All conditions, or the 6 in which the looping runs and the others are nearest in number, in the order
    of the table.
    """
    labels = list(dict.fromkeys(runs["condition"]))
    looping = runs["onset"].notna().groupby(runs["condition"]).mean()
    chosen = sorted(labels, key=lambda label: abs(looping[label] - 0.5))[:SHOWN]
    return [label for label in labels if label in chosen]


def heat_map(runs: pd.DataFrame, entropy: np.ndarray) -> Figure:
    """All runs of a condition, a row each: entropy by token, the loop's onset (cross) and the run's end by
    itself (dot). A condition that is not valid has a dagger.

    Of more than 6 conditions, those of `conditions_to_show`; so the figure fits a page.
    """
    labels = conditions_to_show(runs)
    columns = min(2, len(labels))
    rows = -(-len(labels) // columns)
    n_runs = runs["condition"].value_counts()
    tallest = [n_runs[labels[row * columns : (row + 1) * columns]].max() for row in range(rows)]
    finite = entropy[np.isfinite(entropy)]
    top = float(np.quantile(finite, 0.99)) if len(finite) else 1.0
    with matplotlib.rc_context(STYLE):
        height = min(HEIGHT, sum(max(1.9, 0.7 + 0.04 * n) for n in tallest) + 0.8)
        figure = Figure(figsize=(WIDTH if columns > 1 else 5, height), layout="constrained")
        ratios = {"height_ratios": [n + 8 for n in tallest]}
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, gridspec_kw=ratios)
        for axes, label in zip(grid.flat, labels, strict=False):
            image = _heat_rows(axes, runs[runs["condition"] == label], runs.index, entropy, top)
        for number, axes in enumerate(grid.flat):
            if number >= len(labels):
                axes.remove()
            elif number + columns >= len(labels):
                axes.set_xlabel("new token")
                axes.tick_params(labelbottom=True)
        panels = list(grid.flat[: len(labels)])
        figure.colorbar(
            image, ax=panels, label=AXIS["entropy"], extend="max", shrink=0.6, aspect=30, pad=0.02
        )
        shown = runs[runs["condition"].isin(labels)]
        titles = [
            marked(label, is_valid)
            for label, is_valid in zip(shown["condition"], shown["valid"], strict=True)
        ]
        legend_above(figure, _heat_marks() | note_daggers(titles))
    return figure


def _heat_marks() -> dict[str, Line2D]:
    cross = {"marker": "x", "color": LOOPING, "markersize": 5, "markeredgewidth": 1.2}
    dot = {"marker": ".", "color": "0.1", "markersize": 6}
    names = {"loop's onset": cross, "end of a run by itself": dot}
    return {name: Line2D([], [], linestyle="none", **look) for name, look in names.items()}


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
    for colour, size, width in (("white", 4.2, 2.2), (LOOPING, 3.4, 1.1)):
        onsets = loops["onset"].astype(float)
        axes.plot(onsets, loops.index, "x", color=colour, markersize=size, markeredgewidth=width)
    axes.plot(ends["tokens"], ends.index, ".", color="0.1", markersize=3)
    axes.set_xlim(-0.5, entropy.shape[1] - 0.5)
    name = marked(runs["condition"].iloc[0], runs["valid"].iloc[0])
    axes.set_title(f"{wrapped(name, 50)}\n{len(runs)} runs, {len(loops)} loop", fontsize=8)
    axes.set_ylabel("run")
    axes.set_yticks([])
    return image


def aligned(tables: dict[str, pd.DataFrame]) -> Figure:
    """Mean signals around the loop's onset in looping runs and in their controls, with 95 % bands, and n
    below.
    """
    groups = {
        "looping runs": ("looping", LOOPING, ""),
        "runs of the same condition that never loop, at the same token": ("control", HEALTHY, (4, 1.5)),
    }
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.9 * len(tables) + 1.4), layout="constrained")
        *panels, counts = figure.subplots(
            len(tables) + 1, 1, sharex=True, height_ratios=[3] * len(tables) + [1]
        )
        for axes, (name, table) in zip(panels, tables.items(), strict=True):
            table = table.round(DIGITS)
            columns = {column: label for label, (column, *_) in groups.items()}
            sns.lineplot(
                table.rename(columns=columns).melt("offset", list(groups), "group", "mean"),
                x="offset",
                y="mean",
                hue="group",
                style="group",
                palette={label: colour for label, (_, colour, _) in groups.items()},
                dashes={label: dashes for label, (*_, dashes) in groups.items()},
                estimator=None,
                ax=axes,
            )
            shown = entries(axes)
            for column, colour, _ in groups.values():
                low, high = table[f"{column}_low"], table[f"{column}_high"]
                axes.fill_between(table["offset"], low, high, color=colour, alpha=0.2, linewidth=0)
            axes.axvline(0, color="0.35", linestyle=":")
            axes.set(ylabel=AXIS[name], xlabel="")
            axes.set_ylim(bottom=0)
        counts.fill_between(table["offset"], table["n"], step="mid", color="0.75")
        counts.set(ylabel="runs", xlabel="tokens from the loop's onset", ylim=(0, None))
        counts.axvline(0, color="0.35", linestyle=":")
        legend_above(figure, shown)
    return figure


def discriminator_dots(table: pd.DataFrame) -> Figure:
    """AUROC of each number of a run by outcome, pairs within conditions, dots with 95 % intervals."""
    table = table[(table["among"] == WITHIN) & table["auroc"].notna()]
    outcomes, features = list(dict.fromkeys(table["outcome"])), list(dict.fromkeys(table["feature"]))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.22 * len(features) + 0.9), layout="constrained")
        grid = figure.subplots(1, max(1, len(outcomes)), sharey=True, squeeze=False)[0]
        for axes, outcome in zip(grid, outcomes, strict=False):
            part = table[table["outcome"] == outcome].set_index("feature").reindex(features)
            place = range(len(features))
            axes.hlines(place, part["low"], part["high"], color=COLOURS[0])
            axes.plot(part["auroc"], place, "o", color=COLOURS[0], markersize=4, clip_on=False)
            axes.axvline(0.5, color="0.35", linestyle=":")
            axes.set(
                xlim=(0, 1),
                ylim=(len(features) - 0.5, -0.5),
                xticks=(0, 0.25, 0.5, 0.75, 1),
                yticks=place,
                yticklabels=features,
                title=outcome,
            )
            axes.set_xticklabels(["0", "", "0.5", "", "1"])
            axes.grid(axis="x", alpha=0.3)
        figure.supxlabel("AUROC within conditions", size=9)
    return figure
