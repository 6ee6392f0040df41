"""Figures of conditions and of single runs, as matplotlib objects; `style.save` writes them."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from kvhelpers.analysis.runs import run_tokens
from kvhelpers.experiment.results import ConditionResult, find_baseline, is_invalid
from kvhelpers.records import Record
from kvhelpers.report.figures.style import AXIS, COLOURS, DIGITS, STYLE, wrapped

AROUND = 32  # tokens of the token-by-token trace before and after the onset


def outcomes(results: Sequence[ConditionResult]) -> Figure:
    """Accuracy and catastrophic failure rate of each condition, dots with Wilson 95 % intervals."""
    baseline = find_baseline(results)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 0.55 * len(results) + 1.3), layout="constrained")
        axes = figure.subplots()
        for offset, colour, marker, (name, title) in zip(
            (-0.12, 0.12),
            COLOURS,
            "os",
            {"accuracy": "accuracy", "cfr": "catastrophic failure rate"}.items(),
            strict=False,
        ):
            rates = [getattr(result.summary, name) for result in results]
            rate = [r.rate for r in rates]
            spread = [[r.rate - r.low for r in rates], [r.high - r.rate for r in rates]]
            place = [index + offset for index in range(len(results))]
            axes.errorbar(
                rate, place, xerr=spread, fmt=marker, color=colour, capsize=3, label=title, clip_on=False
            )
        axes.set_yticks(range(len(results)), [_condition_name(result, baseline) for result in results])
        axes.set(
            ylim=(len(results) - 0.5, -0.5), xlim=(0, 1), xlabel="share of runs, with Wilson 95 % interval"
        )
        axes.grid(axis="x", alpha=0.3)
        figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def _condition_name(result: ConditionResult, baseline: ConditionResult | None) -> str:
    note = ", not valid" if is_invalid(result, baseline) else ""
    return f"{wrapped(result.label)}\n(n = {result.summary.n}{note})"


def trace(runs: Sequence[tuple[str, pd.DataFrame]], onset: int | None = None) -> Figure:
    """Entropy and top-1 probability, token by token.

    ``runs`` are (label, signals of one run) pairs, the run to look at first; ``onset`` marks its loop.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 4.4), layout="constrained")
        for axes, column in zip(figure.subplots(2, 1, sharex=True), ("entropy", "top1_prob"), strict=True):
            for (label, signals), colour, style in zip(
                runs, (COLOURS[3], COLOURS[0]), ("-", "--"), strict=False
            ):
                values = signals[column].round(DIGITS)
                axes.plot(signals["step"], values, style, color=colour, linewidth=1.3, label=label)
            if onset is not None:
                axes.axvline(onset, color="0.35", linestyle=":", label=f"loop onset (token {onset})")
            axes.set_ylabel(AXIS[column])
            axes.set_ylim(bottom=0)
        axes.set_xlabel("new token")
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    return figure


def token_trace(result: ConditionResult, record: Record) -> Figure | None:
    """A run around its onset, or its first tokens: entropy and top-1 probability over the tokens themselves;
    None if it has no token.
    """
    onset, tokens = record.onset, run_tokens(result, record)
    middle = AROUND if onset is None else onset
    tokens = tokens[tokens["step"].between(middle - AROUND, middle + AROUND)]
    if not len(tokens):
        return None
    steps = tokens["step"]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(6, 0.19 * len(tokens) + 1), 4.2), layout="constrained")
        panels = figure.subplots(2, 1, sharex=True)
        for axes, column, colour in zip(
            panels, ("entropy", "top1_prob"), (COLOURS[3], COLOURS[0]), strict=True
        ):
            axes.bar(steps, tokens[column].round(DIGITS), color=colour, width=0.8)
            if onset is not None:
                axes.axvline(onset - 0.5, color="0.2", linestyle=":", label=f"loop onset (token {onset})")
            axes.set_ylabel(AXIS[column])
            axes.set_ylim(bottom=0)
        if onset is not None:
            figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", frameon=False)
        names = [_visible(piece) for piece in tokens["piece"]]
        panels[1].set_xticks(steps, names, rotation=90, family="monospace", size=7)
        panels[1].set_xlabel(f"new tokens {steps.iloc[0]} to {steps.iloc[-1]}, as generated")
        panels[1].set_xlim(steps.iloc[0] - 1, steps.iloc[-1] + 1)
    return figure


def _visible(piece: str) -> str:
    """A token as a label: blanks are seen, and nothing in it is taken for mathematics."""
    marks = {"\n": "↵", " ": "·"}
    shown = "".join(marks.get(c, c if c.isprintable() else "�") for c in piece[:12]) or "∅"
    return shown.replace("$", r"\$")
