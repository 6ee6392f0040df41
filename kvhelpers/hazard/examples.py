"""Runs to look at: typical ones with their risk token by token, and the failures that are missed."""

from __future__ import annotations

import numpy as np
import pandas as pd

from kvhelpers.hazard.events import Event
from kvhelpers.hazard.risk_set import RiskSet
from kvhelpers.records import Shape

WORTH_LOOKING = 10  # tokens at risk
MISSED = 3  # failures
TYPICAL = ("failure, highest risk", "failure, lowest risk", "healthy, highest risk", "healthy, median risk")


class RiskTrace(Shape):
    """The out-of-fold ``risk`` of a run at each of its tokens at risk, ``steps``; ``kind`` is one of
    `TYPICAL`.
    """

    kind: str
    experiment: str
    condition: str
    prompt: str
    event: Event
    time: int
    steps: tuple[int, ...]
    risk: tuple[float, ...]


class MissedFailure(Shape):
    """A failure, where to find its record, and the highest risk before its onset."""

    experiment: str
    condition: str
    prompt_index: int
    event: Event
    time: int
    highest: float


def typical_runs(risk: RiskSet, scores: np.ndarray) -> list[int]:
    """Runs to look at, by their highest risk: the failures with most and least, the healthy ones with most
    and median.

    Only runs with at least 10 tokens at risk are looked at, if there are such failures.
    """
    by_run = pd.Series(scores).groupby(risk.run)
    highest, runs = by_run.max(), risk.runs.loc[list(by_run.groups)]
    long = by_run.size() >= WORTH_LOOKING
    failed = runs["failed"] & long if (runs["failed"] & long).any() else runs["failed"]
    ranked = [highest[which].sort_values().index for which in (failed, (runs["event"] == Event.END) & long)]
    chosen = [ranked[0][-1], ranked[0][0]]
    return chosen + ([ranked[1][-1], ranked[1][len(ranked[1]) // 2]] if len(ranked[1]) else [])


def risk_traces(risk: RiskSet, scores: np.ndarray) -> tuple[RiskTrace, ...]:
    """The typical runs' risk, from scores ``[N]``."""
    traces = []
    for run, kind in zip(typical_runs(risk, scores), TYPICAL, strict=False):
        row, mask = risk.runs.loc[run], risk.run == run
        traces.append(
            RiskTrace(
                kind=kind,
                experiment=row["experiment"],
                condition=row["condition"],
                prompt=row["prompt"],
                event=row["event"],
                time=row["time"],
                steps=tuple(risk.step[mask].tolist()),
                risk=tuple(scores[mask].tolist()),
            )
        )
    return tuple(traces)


def missed_failures(risk: RiskSet, scores: np.ndarray) -> tuple[MissedFailure, ...]:
    """The failures whose risk stayed lowest, from scores ``[N]``; those without a token at risk are none."""
    highest = pd.Series(scores).groupby(risk.run).max()
    lowest = highest[risk.runs.loc[highest.index, "failed"]].sort_values().head(MISSED)
    return tuple(
        MissedFailure(
            **risk.runs.loc[run, ["experiment", "condition", "prompt_index", "event", "time"]],
            highest=value,
        )
        for run, value in lowest.items()
    )
