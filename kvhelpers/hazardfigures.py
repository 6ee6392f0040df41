"""Figures of the risk of failure, as matplotlib objects; `figures.save` writes them."""

from __future__ import annotations

import warnings

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from lifelines import AalenJohansenFitter
from matplotlib.figure import Figure

from kvhelpers.figures import COLOURS, STYLE
from kvhelpers.hazardstudy import Study
from kvhelpers.presses import NONE
from kvhelpers.riskset import CENSORED, END, RiskSet
from kvhelpers.tables import percent

COLUMNS = 3
STYLES = ("-", "--", ":")  # of tasks
PALETTE = sns.color_palette("viridis_r", as_cmap=True)  # by share removed
AT_RISK = 5  # runs; with fewer left a curve ends
SHOWN = 20  # coefficients
WORTH_LOOKING = 10  # tokens at risk
TYPICAL = ("failure, highest risk", "failure, lowest risk", "healthy, highest risk", "healthy, median risk")


def incidence(runs: pd.DataFrame) -> pd.DataFrame:
    """Cumulative incidence of failure by new tokens, with healthy ends as the competing event (Aalen and Johansen 1978).

    Columns ``tokens, incidence``, as long as 5 runs are at risk; a failure with its onset at token 0 counts at 1 token.
    """
    codes = np.where(runs["failed"], 1, np.where(runs["event"] == END, 2, 0))
    if not runs["failed"].any():
        return pd.DataFrame({"tokens": [0, int(runs["time"].max()) + 1], "incidence": [0.0, 0.0]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tied times are broken at random, by a seed
        fitter = AalenJohansenFitter(calculate_variance=False, seed=0)
        fitter.fit(runs["time"].to_numpy() + 1, codes, event_of_interest=1)
    curve = fitter.cumulative_density_
    curve = pd.DataFrame({"tokens": curve.index, "incidence": curve.iloc[:, 0].to_numpy()})
    return curve[curve["tokens"].map(lambda token: (runs["time"] + 1 >= token).sum()) >= AT_RISK]


def incidence_curves(runs: pd.DataFrame) -> Figure:
    """Cumulative incidence of failure, a panel per press, a line per share removed."""
    presses = [press for press in dict.fromkeys(runs["press"]) if press != NONE] or [NONE]
    tasks, rows = list(dict.fromkeys(runs["task"])), -(-len(presses) // COLUMNS)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4 * min(COLUMNS, len(presses)) + 0.6, 3 * rows + 0.6), layout="constrained")
        grid = figure.subplots(rows, min(COLUMNS, len(presses)), squeeze=False, sharex=True, sharey=True)
        for axes, press in zip(grid.flat, presses, strict=False):
            cells = [part for _, part in runs[runs["press"] == press].groupby(["task", "cell"], sort=False)]
            for part in cells:
                curve, colour = incidence(part), PALETTE(part["removed"].mean())
                label = f"{part['task'].iloc[0]}, {percent(part['removed'].mean())} removed, n = {len(part)}"
                style = STYLES[tasks.index(part["task"].iloc[0]) % len(STYLES)]
                axes.step(curve["tokens"], curve["incidence"], style, where="post", color=colour, label=label)
            axes.set_title(press, fontsize="medium")
            axes.set(ylim=(0, 1), xlabel="new tokens")
            axes.grid(alpha=0.3)
            axes.legend(frameon=False, fontsize="xx-small")
        for axes in grid[:, 0]:
            axes.set_ylabel("failed so far")
        for axes in grid.flat[len(presses) :]:
            axes.remove()
    return figure


def reliability(found: Study) -> Figure:
    """Predicted probability against the observed share, tenths of the tokens."""
    table = found.reliability
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.4, 4), layout="constrained")
        axes = figure.subplots()
        spread = [table["observed"] - table["low"], table["high"] - table["observed"]]
        axes.errorbar(table["predicted"], table["observed"], yerr=spread, fmt="o", color=COLOURS[0], capsize=3)
        top = 1.1 * max(table["predicted"].max(), table["high"].max())
        axes.plot([0, top], [0, top], ":", color="0.4", label="perfectly calibrated")
        axes.set(
            xlabel=f"predicted probability of a failure within {found.horizon} tokens",
            ylabel="observed share of tokens",
            xlim=(0, top),
            ylim=(0, top),
        )
        axes.legend(frameon=False)
    return figure


def coefficients(found: Study) -> Figure:
    """The largest logistic coefficients with their 95 % intervals."""
    table = found.coefficients.head(SHOWN).iloc[::-1]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.5, 0.27 * len(table) + 1), layout="constrained")
        axes, places = figure.subplots(), np.arange(len(table))
        axes.hlines(places, table["low"], table["high"], color=COLOURS[0])
        axes.plot(table["coefficient"], places, "o", color=COLOURS[0])
        axes.axvline(0, color="0.4", linestyle=":")
        axes.set_yticks(places, table["feature"], family="monospace", size=8)
        axes.set_xlabel("log-odds per standard deviation, with 95 % interval over prompts")
    return figure


def typical_runs(risk: RiskSet, scores: np.ndarray) -> list[int]:
    """Runs to look at, by their highest risk: the failures with most and least, the healthy ones with most and median.

    Only runs with at least 10 tokens at risk are looked at, if there are such failures.
    """
    by_run = pd.Series(scores).groupby(risk.run)
    highest, runs = by_run.max(), risk.runs.loc[list(by_run.groups)]
    long = by_run.size() >= WORTH_LOOKING
    failed = runs["failed"] & long if (runs["failed"] & long).any() else runs["failed"]
    ranked = [highest[which].sort_values().index for which in (failed, (runs["event"] == END) & long)]
    chosen = [ranked[0][-1], ranked[0][0]]
    return chosen + ([ranked[1][-1], ranked[1][len(ranked[1]) // 2]] if len(ranked[1]) else [])


def risk_over_time(found: Study) -> Figure:
    """The out-of-fold risk of typical runs, token by token, up to the onset or the end."""
    chosen = typical_runs(found.risk, found.scores)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 1.5 * len(chosen) + 0.5), layout="constrained")
        for axes, run, title in zip(np.atleast_1d(figure.subplots(len(chosen), sharey=True)), chosen, TYPICAL, strict=False):
            row, mask = found.risk.runs.loc[run], found.risk.run == run
            axes.plot(found.risk.step[mask], found.scores[mask], color=COLOURS[3 if row["failed"] else 0])
            event = {CENSORED: "limit", END: "end"}.get(row["event"], f"onset ({row['event']})")
            axes.axvline(row["time"], color="0.35", linestyle=":", label=event)
            axes.set_title(f"{title}: {row['cell']}, prompt {row['prompt']}", fontsize="small", loc="left")
            axes.set(ylim=(0, 1), ylabel="risk")
            axes.legend(frameon=False, fontsize="small", loc="upper left")
        axes.set_xlabel("new token")
    return figure
