"""Alarms of whole runs: at a rate of false alarms that one is ready to bear, how many failures are announced,
how early.

A run is warned of when its score first exceeds a threshold while it is at risk. The threshold is the one at
which the wanted share of *training* runs that end right would be warned of, by scores that these runs'
prompts had no part in. Each task (of a model) has a threshold of its own: with one for all, a score that only
knows the task would announce the failures of a hard one and spare the right runs of an easy one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kvhelpers.errors import InputError
from kvhelpers.hazard.predictors import Predictor
from kvhelpers.hazard.risk_set import RiskSet
from kvhelpers.hazard.splits import FOLDS, prompt_splits, scores_of
from kvhelpers.records import Shape
from kvhelpers.stats import Estimate, estimate, mean, proportion

RATES = (0.01, 0.05, 0.10)
INNER = 3  # folds in which the threshold is set


class RunAlarms(Shape):
    """What alarms are worth at one wanted rate of false alarms.

    ``caught`` is the share of failures that are warned of before their onset, among those that have a token
    at risk; ``immediate`` counts those that have none. ``lead`` are the tokens from alarm to onset, of the
    caught ones. ``false_alarms`` is the share that were warned of in the test folds, of the runs that ended
    by themselves with the right answer; ``wrong_ends`` that of those with a wrong one.
    """

    wanted: float
    caught: Estimate | None
    lead: tuple[int, ...]
    false_alarms: Estimate | None
    wrong_ends: Estimate | None
    immediate: int


def alarm_tokens(
    risk: RiskSet, predictor: Predictor, folds: int = FOLDS, rates: Sequence[float] = RATES
) -> np.ndarray:
    """The token at which each run is warned of, ``[rates, runs]``, infinite where it is not: thresholds from
    inner folds, alarms in outer folds.

    Raises
    ------
    InputError : rates that are none.
    """
    if not isinstance(rates, list | tuple) or not rates or not all(0 < rate < 1 for rate in rates):
        raise InputError(
            f"false_alarms {rates!r} are not allowed; they are shares of runs that end right, above 0 and "
            "below 1"
        )
    runs, n, task = risk.runs, len(risk.runs), risk.runs["task"].to_numpy()
    alarm_at = np.full((len(rates), n), np.inf)  # token of the alarm
    for split in prompt_splits(runs, folds):
        inner = min(INNER, runs["prompt"][split.train].nunique())
        scores = scores_of(risk, predictor, prompt_splits(runs, inner, split.train))
        train = split.train[risk.run]
        highest = highest_by_run(risk.part(train), scores[train])
        right = risk.ended(right=True) & split.train
        test = risk.part(split.test[risk.run])
        scores = predictor.fit(risk, train).score(test)
        for which, rate in enumerate(rates):
            alarm = scores > _thresholds(highest, right, task, rate)[test.run]
            first = _by_run(np.minimum, test.run[alarm], test.step[alarm], n, np.inf)
            alarm_at[which] = np.minimum(alarm_at[which], first)
    return alarm_at


def judge_alarms(risk: RiskSet, rates: Sequence[float], alarm_at: np.ndarray) -> list[RunAlarms]:
    """What alarms at the tokens ``[rates, runs]`` are worth."""
    return [_judge(risk, rate, alarm_at[which]) for which, rate in enumerate(rates)]


def caught_difference(risk: RiskSet, first: np.ndarray, second: np.ndarray) -> Estimate | None:
    """The share of failures that the first alarms ``[runs]`` announce minus that of the second, on the same
    draws of prompts; both among the failures that have a token at risk.
    """
    could_warn = _could_warn(risk)
    difference = np.isfinite(first[could_warn]).astype(float) - np.isfinite(second[could_warn])
    return estimate(mean(difference), list(risk.runs["prompt"][could_warn]))


def highest_by_run(risk: RiskSet, scores: np.ndarray) -> np.ndarray:
    """The highest of the scores ``[N]`` of each run's tokens, ``[runs]``; -inf for a run without one."""
    return _by_run(np.maximum, risk.run, scores, len(risk.runs), -np.inf)


def _could_warn(risk: RiskSet) -> np.ndarray:
    """Failures that have a token at risk, ``[runs]``."""
    return risk.runs["failed"].to_numpy() & (np.bincount(risk.run, minlength=len(risk.runs)) > 0)


def _thresholds(highest: np.ndarray, right: np.ndarray, task: np.ndarray, rate: float) -> np.ndarray:
    """Each run's threshold, ``[runs]``: that of its task; infinite where no training run of it ends right."""
    thresholds = np.full(len(task), np.inf)
    for name in set(task):
        known = highest[right & (task == name)]
        if len(known):
            thresholds[task == name] = np.quantile(known, 1 - rate)
    return thresholds


def _by_run(combine: np.ufunc, run: np.ndarray, values: np.ndarray, n: int, start: float) -> np.ndarray:
    combined = np.full(n, start, dtype=float)
    combine.at(combined, run, values)
    return combined


def _judge(risk: RiskSet, rate: float, alarm_at: np.ndarray) -> RunAlarms:
    runs, could_warn = risk.runs, _could_warn(risk)
    prompts, time, failed = runs["prompt"].to_numpy(), runs["time"].to_numpy(), runs["failed"].to_numpy()
    right, wrong, alarm = risk.ended(right=True), risk.ended(right=False), np.isfinite(alarm_at)
    caught = could_warn & alarm
    return RunAlarms(
        wanted=rate,
        caught=proportion(alarm[could_warn], prompts[could_warn]),
        lead=tuple((time[caught] - alarm_at[caught]).astype(int).tolist()),
        false_alarms=proportion(alarm[right], prompts[right]),
        wrong_ends=proportion(alarm[wrong], prompts[wrong]),
        immediate=int((failed & ~could_warn).sum()),
    )
