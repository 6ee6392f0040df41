"""Figures of the risk of failure, as matplotlib objects; `style.save` writes them."""

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
from matplotlib.ticker import MaxNLocator

from kvhelpers.hazard.events import Event
from kvhelpers.hazard.incidence import IncidenceCurve
from kvhelpers.hazard.scrutiny import Scrutiny
from kvhelpers.hazard.study import Study
from kvhelpers.presses.registry import NONE
from kvhelpers.report.figures.style import (
    HEALTHY,
    LOOPING,
    STYLE,
    WIDTH,
    entries,
    wrapped,
)
from kvhelpers.report.format import percent
from kvhelpers.stats import Estimate

DRAWN = ("incidence", "reliability", "risk", "coefficients")
OF_SCRUTINY = ("published", "varied")
COLUMNS = 3
PALETTE = sns.color_palette("viridis_r", as_cmap=True)  # from the least to the largest share removed
SHOWN = 20  # coefficients


def hazard_figures(study: Study) -> dict[str, Figure]:
    """All figures of a study's log, by the names in `drawn`."""
    figures = [
        cumulative_incidence(study.incidence),
        reliability(study),
        risk_over_time(study),
        coefficients(study),
    ]
    if study.scrutiny is not None:
        figures += [published(study.scrutiny), varied(study.scrutiny)]
    return dict(zip(drawn(study), figures, strict=True))


def drawn(study: Study) -> tuple[str, ...]:
    """The names of a study's figures: `DRAWN`, and `OF_SCRUTINY` where it has a scrutiny."""
    return DRAWN if study.scrutiny is None else DRAWN + OF_SCRUTINY


def cumulative_incidence(curves: Sequence[IncidenceCurve]) -> Figure:
    """Cumulative incidence of failure: a panel per press, a line per task and share removed, one legend."""
    presses = [press for press in dict.fromkeys(curve.press for curve in curves) if press != NONE] or [NONE]
    frame = _incidence_frame([curve for curve in curves if curve.press in presses])
    shares = frame[["removed", "share removed"]].drop_duplicates().sort_values("removed")
    least, most = shares["removed"].min(), shares["removed"].max()
    depths = 0.1 + 0.9 * (shares["removed"] - least) / max(most - least, 0.01)
    lines = {
        "palette": dict(zip(shares["share removed"], map(PALETTE, depths), strict=True)),
        "hue_order": list(shares["share removed"]),
        "style_order": list(dict.fromkeys(frame["task"])),
    }
    columns = min(COLUMNS, len(presses))
    rows = -(-len(presses) // columns)
    with matplotlib.rc_context(STYLE):
        width = (WIDTH - 1.3) / COLUMNS * columns + 1.3
        figure = Figure(figsize=(width, max(2.6, 2.0 * rows + 0.3)), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        shown: dict[str, Artist] = {}
        for number, (axes, press) in enumerate(zip(grid.flat, presses, strict=False)):
            part = frame[frame["press"] == press]
            if len(part):
                found = _incidence_lines(axes, part, lines)
                shown = max(shown, found, key=len)
            else:
                axes.text(0.5, 0.5, "too few runs", transform=axes.transAxes, ha="center")
            is_lowest = number + columns >= len(presses)
            axes.set(
                title=press, ylim=(0, 1), xlabel="new tokens" if is_lowest else "", ylabel="failed so far"
            )
            axes.tick_params(labelbottom=is_lowest)
            axes.xaxis.label.set_visible(is_lowest)
            axes.grid(alpha=0.3)
        if shown:
            figure.legend(list(shown.values()), list(shown), loc="outside right upper")
        for axes in grid.flat[len(presses) :]:
            axes.remove()
    return figure


def _incidence_lines(axes: Axes, frame: pd.DataFrame, look: Mapping[str, Any]) -> dict[str, Artist]:
    sns.lineplot(
        frame,
        x="tokens",
        y="incidence",
        hue="share removed",
        style="task",
        units="condition",
        estimator=None,
        drawstyle="steps-post",
        linewidth=1.2,
        ax=axes,
        **look,
    )
    return entries(axes)


def _incidence_frame(curves: Sequence[IncidenceCurve]) -> pd.DataFrame:
    """A row per curve and token: press, task, condition, removed, share removed (text), tokens, incidence."""
    parts = [
        pd.DataFrame({"tokens": curve.tokens, "incidence": curve.incidence}).assign(
            press=curve.press,
            task=curve.task,
            condition=f"{curve.task}, {curve.condition}",
            removed=round(curve.removed, 2),
        )
        for curve in curves
    ]
    frame = pd.concat(parts, ignore_index=True)
    return frame.assign(**{"share removed": frame["removed"].map(percent)})


def reliability(study: Study) -> Figure:
    """Predicted probability against the observed share, tenths of the tokens, on logarithmic axes; a share of
    0 stands at the lower edge.
    """
    predicted, observed, low, high = np.array(
        [(part.predicted, part.observed, part.low, part.high) for part in study.reliability], dtype=float
    ).T
    positive = np.concatenate([predicted[predicted > 0], observed[observed > 0], [1e-3]])
    least, most = positive.min() / 2, min(1.0, 2 * np.nanmax([*predicted, *observed, *high]))
    low, high = np.where(np.isnan(low), observed, low), np.where(np.isnan(high), observed, high)
    ends = [np.maximum(values, least) for values in (observed, low, high)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.4, 4), layout="constrained")
        axes = figure.subplots()
        spread = [ends[0] - ends[1], ends[2] - ends[0]]
        axes.errorbar(np.maximum(predicted, least), ends[0], yerr=spread, fmt="o", color=HEALTHY, capsize=3)
        axes.plot([least, most], [least, most], ":", color="0.4", label="perfectly calibrated")
        axes.set(
            xscale="log",
            yscale="log",
            xlabel=f"predicted probability of a failure within {study.settings.horizon} tokens",
            ylabel="observed share of tokens",
            xlim=(least, most),
            ylim=(least, most),
        )
        axes.legend(frameon=False)
    return figure


def published(scrutiny: Scrutiny) -> Figure:
    """AUROC over all pairs of a fold by horizon as definitions change from published ones, at the top, to
    this study's; and within condition and token at the middle horizon.
    """
    steps, lines = scrutiny.published, {}
    horizons = sorted(steps[0].pooled)
    for horizon in horizons:
        lines[f"all pairs of a fold, horizon {horizon}"] = [step.pooled[horizon] for step in steps]
    middle = horizons[len(horizons) // 2]
    lines[f"same condition and token, horizon {middle}"] = [step.within[middle] for step in steps]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.5 * len(steps) + 1.2), layout="constrained")
        axes, colours = figure.subplots(), sns.color_palette("colorblind", len(lines))
        shifts = np.linspace(-0.24, 0.24, len(lines))
        for name, shift, colour in zip(lines, shifts, colours, strict=True):
            _dots(axes, lines[name], np.arange(len(steps)) + shift, colour, name)
        axes.axvline(0.5, color="0.6", linestyle=":")
        axes.set_yticks(range(len(steps)), [wrapped(step.change, 44) for step in steps])
        axes.invert_yaxis()
        axes.set_xlabel("AUROC, with 95 % interval over prompts")
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def _dots(axes: Axes, values: Sequence[Estimate | None], places: np.ndarray, colour: Any, name: str) -> None:
    known = [(value, place) for value, place in zip(values, places, strict=True) if value is not None]
    axes.plot([v.value for v, _ in known], [p for _, p in known], "o", color=colour, label=name, markersize=4)
    for value, place in known:
        if value.low is not None:
            axes.hlines(place, value.low, value.high, color=colour, linewidth=1.2)


def varied(scrutiny: Scrutiny) -> Figure:
    """AUROC within condition and token by horizon, a line per definition of failure."""
    rows = [
        {"horizon": horizon, "AUROC": value.value, "failure": one.definition}
        | {"low": value.low, "high": value.high}
        for one in scrutiny.varied
        for horizon, value in one.within.items()
        if value is not None
    ]
    frame = pd.DataFrame(rows, columns=["horizon", "AUROC", "failure", "low", "high"])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
        axes = figure.subplots()
        names = [one.definition for one in scrutiny.varied]
        for name, colour in zip(names, sns.color_palette("colorblind", len(names)), strict=True):
            part, first = frame[frame["failure"] == name], name == names[0]
            axes.plot(
                part["horizon"], part["AUROC"], "o-", color=colour, label=name, linewidth=2.5 if first else 1
            )
            if first and part["low"].notna().all():
                axes.fill_between(part["horizon"], part["low"], part["high"], color=colour, alpha=0.2)
        axes.axhline(0.5, color="0.6", linestyle=":")
        axes.set(xscale="log", xlabel="horizon, tokens", ylabel="AUROC, same condition and token")
        horizons = sorted(set(frame["horizon"]))
        axes.set_xticks(horizons, [str(horizon) for horizon in horizons])
        axes.minorticks_off()
        figure.legend(loc="outside right upper", frameon=False)
    return figure


def coefficients(study: Study) -> Figure:
    """The largest logistic coefficients with their 95 % intervals."""
    largest = study.coefficients[:SHOWN][::-1]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.5, 0.27 * len(largest) + 1), layout="constrained")
        axes, places = figure.subplots(), np.arange(len(largest))
        axes.hlines(places, [c.low for c in largest], [c.high for c in largest], color=HEALTHY)
        axes.plot([c.coefficient for c in largest], places, "o", color=HEALTHY)
        axes.axvline(0, color="0.4", linestyle=":")
        axes.set_yticks(places, [c.feature for c in largest], family="monospace", size=8)
        axes.set_xlabel("log-odds per standard deviation, with 95 % interval over prompts")
    return figure


def risk_over_time(study: Study) -> Figure:
    """The out-of-fold risk of typical runs, token by token, up to the onset or the end (dotted)."""
    events = {Event.CENSORED: "limit", Event.END: "end"}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.5 * len(study.traces) + 0.4), layout="constrained")
        panels = np.atleast_1d(figure.subplots(len(study.traces), sharey=True))
        for axes, trace in zip(panels, study.traces, strict=True):
            axes.plot(trace.steps, trace.risk, color=LOOPING if trace.event.is_failure else HEALTHY)
            axes.axvline(trace.time, color="0.35", linestyle=":")
            event = events.get(trace.event, f"onset of its {trace.event}")
            title = f"{trace.kind}: {trace.condition}, prompt {trace.prompt}; {event} at token {trace.time}"
            axes.set_title(wrapped(title, 100), loc="left")
            axes.set(ylim=(-0.04, 1.04), ylabel="risk", yticks=(0, 0.5, 1))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        panels[-1].set_xlabel("new token")
    return figure
