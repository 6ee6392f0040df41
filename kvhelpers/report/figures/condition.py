"""Figures of conditions and of single runs, as matplotlib objects; `style.save` writes them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import matplotlib
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from kvhelpers.analysis.runs import run_tokens
from kvhelpers.experiment.results import ConditionResult, find_baseline, is_invalid
from kvhelpers.records import Record
from kvhelpers.report.figures.style import (
    AXIS,
    DIGITS,
    HEALTHY,
    HEIGHT,
    LOOPING,
    RATES,
    STYLE,
    WIDTH,
    entries,
    legend_above,
    marked,
    note_daggers,
    open_markers,
    wrapped,
)

AROUND = 32  # tokens of the token-by-token trace before and after the onset
SIGNALS = ("entropy", "top1_prob")
OTHER_RUN = "0.25"  # a run that is looked at and does not loop


def outcomes(results: Sequence[ConditionResult]) -> Figure:
    """Accuracy and catastrophic failure rate of each condition, dots with Wilson 95 % intervals.

    A condition that is not valid has a dagger and open dots.
    """
    valid = [not is_invalid(result, find_baseline(results, result)) for result in results]
    names = [
        f"{wrapped(marked(result.label, is_valid))}\n(n = {result.summary.n})"
        for result, is_valid in zip(results, valid, strict=True)
    ]
    row = max(0.42, 0.1 + 0.16 * max(name.count("\n") + 1 for name in names))
    with matplotlib.rc_context(STYLE):
        height = min(HEIGHT, row * len(results) + 1.1)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.subplots()
        shown = {}
        for offset, key in ((-0.12, "accuracy"), (0.12, "cfr")):
            title, colour, marker, _ = RATES[key]
            rates = [getattr(result.summary, key) for result in results]
            rate = [r.rate for r in rates]
            spread = [[r.rate - r.low for r in rates], [r.high - r.rate for r in rates]]
            place = [index + offset for index in range(len(results))]
            shown[title] = axes.errorbar(
                rate, place, xerr=spread, fmt=marker, markersize=5, color=colour, capsize=3, clip_on=False
            )
            open_markers(axes, rate, place, valid, colour, marker, size=22)
        axes.set_yticks(range(len(results)), names)
        axes.set(
            ylim=(len(results) - 0.5, -0.5), xlim=(0, 1), xlabel="share of runs, with Wilson 95 % interval"
        )
        axes.grid(axis="x", alpha=0.3)
        legend_above(figure, shown | note_daggers(names))
    return figure


def trace(
    runs: Sequence[tuple[str, pd.DataFrame]], onset: int | None = None, not_valid: Collection[str] = ()
) -> Figure:
    """Entropy and top-1 probability, token by token.

    ``runs`` are (label, signals of one run) pairs, the run to look at first; ``onset`` marks its loop. Labels
    in ``not_valid`` get a dagger.
    """
    labels = [marked(label, label not in not_valid) for label, _ in runs]
    parts = [signals.assign(run=label) for label, (_, signals) in zip(labels, runs, strict=True)]
    frame = pd.concat(parts, ignore_index=True).round(dict.fromkeys(SIGNALS, DIGITS))
    colours = (OTHER_RUN if onset is None else LOOPING, HEALTHY)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
        for axes, column in zip(figure.subplots(2, 1, sharex=True), SIGNALS, strict=True):
            sns.lineplot(
                frame,
                x="step",
                y=column,
                hue="run",
                style="run",
                palette=dict(zip(labels, colours, strict=False)),
                dashes=dict(zip(labels, ("", (4, 1.5)), strict=False)),
                estimator=None,
                linewidth=1.2,
                ax=axes,
            )
            shown = entries(axes)
            if onset is not None:
                shown |= _onset_line(axes, onset, onset)
            axes.set(ylabel=AXIS[column], xlabel="new token")
            axes.set_ylim(bottom=0)
        legend_above(figure, shown | note_daggers(labels))
    return figure


def _onset_line(axes: Axes, onset: int, place: float) -> dict[str, Line2D]:
    return {f"loop onset (token {onset})": axes.axvline(place, color="0.35", linestyle=":")}


def token_trace(result: ConditionResult, record: Record) -> Figure | None:
    """A run around its onset, or its first tokens: entropy and top-1 probability over the tokens themselves;
    None if it has no token.

    The 32 tokens before the onset (or the first 32) are in the upper half, the others in the lower half.
    """
    onset, tokens = record.onset, run_tokens(result, record)
    middle = AROUND if onset is None else onset
    tokens = tokens[tokens["step"].between(middle - AROUND, middle + AROUND)]
    halves = [
        half for half in (tokens[tokens["step"] < middle], tokens[tokens["step"] >= middle]) if len(half)
    ]
    if not halves:
        return None
    top = tokens["entropy"].max()
    name = marked(result.label, not result.is_invalid)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.2 * len(halves) + 0.4), layout="constrained")
        panels = figure.subplots(2 * len(halves), 1).reshape(-1, 2)
        shown: dict[str, Patch] = {}
        for (upper, lower), half in zip(panels, halves, strict=True):
            first, last = half["step"].iloc[[0, -1]]
            loops = onset is not None and first >= onset
            colour = LOOPING if loops else HEALTHY
            for axes, column in zip((upper, lower), SIGNALS, strict=True):
                _token_bars(axes, half, column, colour)
            upper.set_ylim(0, 1.05 * top or 1)
            upper.tick_params(labelbottom=False)
            names = [_visible(piece) for piece in half["piece"]]
            lower.set_xticks(half["step"], names, rotation=90, family="monospace", size=7.5)
            lower.set(xlabel=f"new tokens {first} to {last}, as generated", ylim=(0, 1.05))
            if onset is not None:
                title = f"from the loop's onset on (token {onset})" if loops else "before the loop"
                shown[title] = Patch(color=colour)
        legend_above(figure, shown | note_daggers([name]))
        panels[0, 0].set_title(wrapped(f"{record.prompt_id}, {name}", 90), loc="left")
    return figure


def _token_bars(axes: Axes, tokens: pd.DataFrame, column: str, colour: object) -> None:
    """Bars of one signal; room for 33 of them, so that bars are as wide in both halves."""
    values = tokens.assign(**{column: tokens[column].round(DIGITS)})
    sns.barplot(values, x="step", y=column, color=colour, saturation=1, width=0.8, native_scale=True, ax=axes)
    first = tokens["step"].iloc[0]
    axes.set(xlabel="", ylabel=AXIS[column], xlim=(first - 0.7, first + AROUND + 0.7))
    axes.set_xticks(tokens["step"])


def _visible(piece: str) -> str:
    """A token as a label: blanks are seen, and nothing in it is taken for mathematics."""
    marks = {"\n": "↵", " ": "·"}
    shown = "".join(marks.get(c, c if c.isprintable() else "�") for c in piece[:12]) or "∅"
    return shown.replace("$", r"\$")
