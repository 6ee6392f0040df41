"""Warnings of whole runs: at a rate of false alarms that one is ready to bear, how many failures are announced, how early.

A run is warned of when its score first exceeds a threshold while it is at risk. The threshold is the one at which the wanted
share of healthy *training* runs would be warned of, by scores that these runs' prompts had no part in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvhelpers.bootstrap import Estimate, proportion
from kvhelpers.folds import FOLDS, INNER, Fit, fold_of_run, out_of_fold
from kvhelpers.riskset import END, RiskSet

RATES = (0.01, 0.05, 0.10)


@dataclass(frozen=True)
class RunWarnings:
    """What warnings are worth at one wanted rate of false alarms.

    ``caught`` is the share of failures that are warned of before their onset, among those that have a token at risk;
    ``immediate`` counts those that have none. ``lead`` are the tokens from warning to onset, of the caught ones.
    ``false_alarms`` is the share of healthy runs (ended by themselves) that were warned of in the test folds.
    """

    wanted: float
    caught: Estimate | None
    lead: np.ndarray
    false_alarms: Estimate | None
    immediate: int


def run_warnings(risk: RiskSet, learn: Fit, folds: int = FOLDS, rates: Sequence[float] = RATES) -> list[RunWarnings]:
    """Judge a predictor at each wanted rate of false alarms: thresholds from inner folds, warnings in outer folds."""
    fold, n = fold_of_run(risk, folds), len(risk.runs)
    warned = np.full((len(rates), n), np.inf)  # token of the warning
    for held in range(folds):
        train, test = risk.part(fold[risk.run] != held), risk.part(fold[risk.run] == held)
        mine = _only_runs(train, fold != held)
        inner = out_of_fold(mine, learn, min(INNER, mine.runs["prompt"].nunique()))
        healthy = (risk.runs["event"] == END).to_numpy() & (fold != held)
        highest = _by_run(np.maximum, train.run, inner, n, -np.inf)[healthy]
        scores = learn(risk, fold[risk.run] != held)(test)
        for which, rate in enumerate(rates):
            threshold = np.quantile(highest, 1 - rate) if len(highest) else np.inf
            alarm = scores > threshold
            warned[which] = np.minimum(warned[which], _by_run(np.minimum, test.run[alarm], test.step[alarm], n, np.inf))
    return [_judge(risk, rate, warned[which]) for which, rate in enumerate(rates)]


def _only_runs(risk: RiskSet, keep: np.ndarray) -> RiskSet:
    """The risk set without the other runs, so that folds are made of the prompts that are left."""
    index = np.cumsum(keep) - 1
    return RiskSet(risk.runs[keep].reset_index(drop=True), index[risk.run], risk.step, risk.features, risk.names)


def _by_run(combine, run: np.ndarray, values: np.ndarray, n: int, start: float) -> np.ndarray:
    found = np.full(n, start, dtype=float)
    combine.at(found, run, values)
    return found


def _judge(risk: RiskSet, rate: float, warned: np.ndarray) -> RunWarnings:
    runs, at_risk = risk.runs, np.bincount(risk.run, minlength=len(risk.runs)) > 0
    prompts, time = runs["prompt"].to_numpy(), runs["time"].to_numpy()
    failed, healthy = runs["failed"].to_numpy(), (runs["event"] == END).to_numpy()
    judged, alarm = failed & at_risk, np.isfinite(warned)
    caught = judged & alarm
    return RunWarnings(
        rate,
        proportion(alarm[judged], prompts[judged]),
        (time[caught] - warned[caught]).astype(int),
        proportion(alarm[healthy], prompts[healthy]),
        int((failed & ~at_risk).sum()),
    )
