"""Figures of signals and failures over many runs, as matplotlib objects; `figures.save` writes them."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kvhelpers.discriminators import WITHIN
from kvhelpers.figures import COLOURS, DIGITS, STYLE, wrapped
from kvhelpers.modes import AMNESIA, CORRECT, CORRUPTION, FAILED, LOOPING, MODES, NON_TERMINATION

AXIS = {"entropy": "entropy (nats)", "top1_prob": "top-1 probability"}
MODE_COLOURS = dict(
    zip(
        (CORRECT, CORRUPTION, AMNESIA, NON_TERMINATION, LOOPING, FAILED),
        [*(COLOURS[i] for i in (2, 8, 1, 4, 3)), "0.6"],
        strict=True,
    )
)
SHOWN = 12  # cells in a heat map
HATCHES = dict(zip(MODES, ("", "..", "//", "xx", "", "oo"), strict=True))


def token_trace(tokens: pd.DataFrame, onset: int | None, first: int = 0) -> Figure:
    """One run token by token: entropy and top-1 probability over the tokens themselves.

    ``tokens`` has columns step, entropy, top1_prob and piece (the token's text), for the stretch to show.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(6, 0.19 * len(tokens) + 1), 4.2), layout="constrained")
        panels = figure.subplots(2, 1, sharex=True)
        for axes, column, colour in zip(panels, ("entropy", "top1_prob"), (COLOURS[3], COLOURS[0]), strict=True):
            axes.bar(tokens["step"], tokens[column].round(DIGITS), color=colour, width=0.8)
            if onset is not None:
                axes.axvline(onset - 0.5, color="0.2", linestyle=":", label=f"loop onset (token {onset})")
            axes.set_ylabel(AXIS[column])
            axes.set_ylim(bottom=0)
        if onset is not None:
            figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", frameon=False)
        panels[1].set_xticks(
            tokens["step"], [_visible(piece) for piece in tokens["piece"]], rotation=90, family="monospace", size=7
        )
        panels[1].set_xlabel(f"new tokens {tokens['step'].iloc[0]} to {tokens['step'].iloc[-1]}, as generated")
        panels[1].set_xlim(tokens["step"].iloc[0] - 1, tokens["step"].iloc[-1] + 1)
    return figure


def _visible(piece: str) -> str:
    """A token as a label: blanks are seen, and nothing in it is taken for mathematics."""
    shown = "".join("↵" if c == "\n" else "·" if c == " " else c if c.isprintable() else "�" for c in piece[:12]) or "∅"
    return shown.replace("$", r"\$")


def cells_to_show(runs: pd.DataFrame) -> list[str]:
    """All cells, or the 12 in which the looping runs and the others are nearest in number, in the order of the table."""
    cells = list(dict.fromkeys(runs["cell"]))
    looping = runs["onset"].notna().groupby(runs["cell"]).mean()
    chosen = sorted(cells, key=lambda cell: abs(looping[cell] - 0.5))[:SHOWN]
    return [cell for cell in cells if cell in chosen]


def heat_map(runs: pd.DataFrame, entropy: np.ndarray) -> Figure:
    """All runs of a cell, a row each: entropy by token, the loop's onset (cross) and the run's end by itself (dot).

    Of more than 12 cells, those of `cells_to_show`.
    """
    cells = cells_to_show(runs)
    columns = min(2, len(cells))
    rows = -(-len(cells) // columns)
    heights = [max((runs["cell"] == cell).sum() for cell in cells[row * columns : (row + 1) * columns]) for row in range(rows)]
    finite = entropy[np.isfinite(entropy)]
    top = float(np.quantile(finite, 0.99)) if len(finite) else 1.0
    with matplotlib.rc_context(STYLE):
        figure = Figure(
            figsize=(4.6 * columns + 0.8, sum(max(2.3, 0.9 + 0.045 * height) for height in heights) + 0.4), layout="constrained"
        )
        grid = figure.subplots(
            rows, columns, squeeze=False, sharex=True, gridspec_kw={"height_ratios": [h + 8 for h in heights]}
        )
        for axes, cell in zip(grid.flat, cells, strict=False):
            of_cell = runs[runs["cell"] == cell]
            order = (
                of_cell.assign(at=of_cell["onset"].astype(float).fillna(np.inf))
                .sort_values(["at", "tokens"], kind="stable")
                .index
            )
            shown = axes.imshow(
                entropy[runs.index.get_indexer(order)].round(DIGITS),
                aspect="auto",
                interpolation="none",
                cmap="viridis",
                vmin=0,
                vmax=max(top, 1e-9),
            )
            part = runs.loc[order].reset_index(drop=True)
            loops, ends = part[part["onset"].notna()], part[part["ended"]]
            axes.plot(loops["onset"].astype(float), loops.index, "x", color="white", markersize=4, markeredgewidth=1.6)
            axes.plot(loops["onset"].astype(float), loops.index, "x", color=COLOURS[3], markersize=3.4, markeredgewidth=0.9)
            axes.plot(ends["tokens"], ends.index, ".", color="0.2", markersize=3)
            axes.set_xlim(-0.5, entropy.shape[1] - 0.5)
            axes.set_title(wrapped(f"{cell} ({len(part)} runs, {len(loops)} loop)", 44), fontsize="small")
            axes.set_ylabel("run")
            axes.set_yticks([])
        for axes in grid.flat[len(cells) :]:
            axes.remove()
        for axes in grid[-1] if len(cells) == rows * columns else [*grid[-1][:1], *grid[-2][1:]]:
            axes.set_xlabel("new token")
            axes.tick_params(labelbottom=True)
        figure.colorbar(shown, ax=list(grid.flat[: len(cells)]), label=AXIS["entropy"], extend="max", shrink=0.6, aspect=40)
    return figure


def aligned(tables: dict[str, pd.DataFrame]) -> Figure:
    """Mean signals around the loop's onset in looping runs and in their controls, with 95 % bands, and n below."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 1.9 * len(tables) + 1.4), layout="constrained")
        *panels, counts = figure.subplots(len(tables) + 1, 1, sharex=True, height_ratios=[3] * len(tables) + [1])
        for axes, (name, table) in zip(panels, tables.items(), strict=True):
            table = table.round(DIGITS)
            for column, colour, style, label in (
                ("looping", COLOURS[3], "-", "looping runs"),
                ("control", COLOURS[0], "--", "runs of the same cell that never loop, at the same token"),
            ):
                axes.plot(table["offset"], table[column], style, color=colour, label=label)
                axes.fill_between(
                    table["offset"], table[f"{column}_low"], table[f"{column}_high"], color=colour, alpha=0.2, linewidth=0
                )
            axes.axvline(0, color="0.35", linestyle=":")
            axes.set_ylabel(AXIS[name])
            axes.set_ylim(bottom=0)
        counts.fill_between(table["offset"], table["n"], step="mid", color="0.75")
        counts.set(ylabel="runs", xlabel="tokens from the loop's onset", ylim=(0, None))
        counts.axvline(0, color="0.35", linestyle=":")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return figure


def mode_bars(runs: pd.DataFrame) -> Figure:
    """Share of each failure mode, a stacked bar per cell."""
    counts = pd.crosstab(runs["cell"], runs["mode"]).reindex(index=list(dict.fromkeys(runs["cell"])))
    counts = counts.reindex(columns=[mode for mode in MODES if mode in counts])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 0.42 * len(counts) + 1.5), layout="constrained")
        axes = figure.subplots()
        shares, left = counts.div(counts.sum(axis=1), axis=0), np.zeros(len(counts))
        for mode in counts:
            axes.barh(
                range(len(counts)),
                shares[mode],
                left=left,
                color=MODE_COLOURS[mode],
                hatch=HATCHES[mode],
                edgecolor="white",
                label=mode,
            )
            for place, (count, share, start) in enumerate(zip(counts[mode], shares[mode], left, strict=True)):
                if share >= 0.05:
                    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.2}
                    axes.text(start + share / 2, place, str(count), ha="center", va="center", size="small", bbox=box)
            left += shares[mode].to_numpy()
        axes.set_yticks(
            range(len(counts)), [wrapped(f"{cell} (n = {n})", 52) for cell, n in counts.sum(axis=1).items()], size="small"
        )
        axes.set(ylim=(len(counts) - 0.5, -0.5), xlim=(0, 1), xlabel="share of runs (number of runs in the bar)")
        figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def discriminator_dots(table: pd.DataFrame) -> Figure:
    """AUROC of each run-level number by outcome, pairs within the same cell, dots with 95 % intervals."""
    table = table[(table["among"] == WITHIN) & table["auroc"].notna()]
    outcomes, features = list(dict.fromkeys(table["outcome"])), list(dict.fromkeys(table["feature"]))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3 * max(1, len(outcomes)) + 2, 0.24 * len(features) + 1), layout="constrained")
        grid = figure.subplots(1, max(1, len(outcomes)), sharey=True, squeeze=False)[0]
        for axes, outcome in zip(grid, outcomes, strict=False):
            part = table[table["outcome"] == outcome].set_index("feature").reindex(features)
            place = range(len(features))
            axes.hlines(place, part["low"], part["high"], color=COLOURS[0])
            axes.plot(part["auroc"], place, "o", color=COLOURS[0], markersize=4)
            axes.axvline(0.5, color="0.35", linestyle=":")
            axes.set(
                xlim=(0, 1), ylim=(len(features) - 0.5, -0.5), xlabel="AUROC within cells", yticks=place, yticklabels=features
            )
            axes.set_title(outcome, fontsize="medium")
            axes.grid(axis="x", alpha=0.3)
    return figure
