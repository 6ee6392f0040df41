"""Figures of the risk of failure, as matplotlib objects; `style.save` writes them."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from kvhelpers.hazard.events import Event
from kvhelpers.hazard.incidence import IncidenceCurve
from kvhelpers.hazard.study import Study
from kvhelpers.presses.registry import NONE
from kvhelpers.report.figures.style import COLOURS, STYLE
from kvhelpers.report.format import percent

DRAWN = ("incidence", "reliability", "risk", "coefficients")
COLUMNS = 3
STYLES = ("-", "--", ":")  # of tasks
PALETTE = sns.color_palette("viridis_r", as_cmap=True)  # by share removed
SHOWN = 20  # coefficients


def hazard_figures(study: Study) -> dict[str, Figure]:
    """All figures of a study's log, by the names in `DRAWN`."""
    figures = (
        cumulative_incidence(study.incidence),
        reliability(study),
        risk_over_time(study),
        coefficients(study),
    )
    return dict(zip(DRAWN, figures, strict=True))


def cumulative_incidence(curves: Sequence[IncidenceCurve]) -> Figure:
    """Cumulative incidence of failure, a panel per press, a line per task and share removed."""
    presses = [press for press in dict.fromkeys(curve.press for curve in curves) if press != NONE] or [NONE]
    tasks, rows = list(dict.fromkeys(curve.task for curve in curves)), -(-len(presses) // COLUMNS)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4 * min(COLUMNS, len(presses)) + 0.6, 3 * rows + 0.6), layout="constrained")
        grid = figure.subplots(rows, min(COLUMNS, len(presses)), squeeze=False, sharex=True, sharey=True)
        for axes, press in zip(grid.flat, presses, strict=False):
            for curve in curves:
                if curve.press == press:
                    axes.step(
                        curve.tokens,
                        curve.incidence,
                        STYLES[tasks.index(curve.task) % len(STYLES)],
                        where="post",
                        color=PALETTE(curve.removed),
                        label=f"{curve.task}, {percent(curve.removed)} removed, n = {curve.runs}",
                    )
            axes.set_title(press, fontsize="medium")
            axes.set(ylim=(0, 1), xlabel="new tokens")
            axes.grid(alpha=0.3)
            axes.legend(frameon=False, fontsize="xx-small")
        for axes in grid[:, 0]:
            axes.set_ylabel("failed so far")
        for axes in grid.flat[len(presses) :]:
            axes.remove()
    return figure


def reliability(study: Study) -> Figure:
    """Predicted probability against the observed share, tenths of the tokens."""
    predicted, observed, low, high = np.array(
        [(part.predicted, part.observed, part.low, part.high) for part in study.reliability]
    ).T
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.4, 4), layout="constrained")
        axes = figure.subplots()
        spread = [observed - low, high - observed]
        axes.errorbar(predicted, observed, yerr=spread, fmt="o", color=COLOURS[0], capsize=3)
        top = 1.1 * max(predicted.max(), high.max())
        axes.plot([0, top], [0, top], ":", color="0.4", label="perfectly calibrated")
        axes.set(
            xlabel=f"predicted probability of a failure within {study.settings.horizon} tokens",
            ylabel="observed share of tokens",
            xlim=(0, top),
            ylim=(0, top),
        )
        axes.legend(frameon=False)
    return figure


def coefficients(study: Study) -> Figure:
    """The largest logistic coefficients with their 95 % intervals."""
    largest = study.coefficients[:SHOWN][::-1]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.5, 0.27 * len(largest) + 1), layout="constrained")
        axes, places = figure.subplots(), np.arange(len(largest))
        axes.hlines(places, [c.low for c in largest], [c.high for c in largest], color=COLOURS[0])
        axes.plot([c.coefficient for c in largest], places, "o", color=COLOURS[0])
        axes.axvline(0, color="0.4", linestyle=":")
        axes.set_yticks(places, [c.feature for c in largest], family="monospace", size=8)
        axes.set_xlabel("log-odds per standard deviation, with 95 % interval over prompts")
    return figure


def risk_over_time(study: Study) -> Figure:
    """The out-of-fold risk of typical runs, token by token, up to the onset or the end."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 1.5 * len(study.traces) + 0.5), layout="constrained")
        panels = np.atleast_1d(figure.subplots(len(study.traces), sharey=True))
        for axes, trace in zip(panels, study.traces, strict=True):
            axes.plot(trace.steps, trace.risk, color=COLOURS[3 if trace.event.is_failure else 0])
            names = {Event.CENSORED: "limit", Event.END: "end"}
            axes.axvline(
                trace.time,
                color="0.35",
                linestyle=":",
                label=names.get(trace.event, f"onset ({trace.event})"),
            )
            title = f"{trace.kind}: {trace.condition}, prompt {trace.prompt}"
            axes.set_title(title, fontsize="small", loc="left")
            axes.set(ylim=(0, 1), ylabel="risk")
            axes.legend(frameon=False, fontsize="small", loc="upper left")
        panels[-1].set_xlabel("new token")
    return figure
