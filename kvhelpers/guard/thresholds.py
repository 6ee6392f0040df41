"""Hazard models and thresholds that have seen neither a run's prompt nor its press."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kvhelpers.hazard.features import family_names
from kvhelpers.hazard.model import HazardModel, fit
from kvhelpers.hazard.predictors import LogisticHazard
from kvhelpers.hazard.risk_set import RiskSet
from kvhelpers.hazard.run_alarms import INNER, highest_by_run
from kvhelpers.hazard.splits import prompt_splits, scores_of

FAMILIES = ("signals", "rolling", "repetition")  # what costs no second cache


@dataclass(frozen=True)
class Trained:
    """A hazard model with the threshold that the wanted share of right runs exceeds; 1 (no alarm) where no
    run to learn from ends right.
    """

    model: HazardModel
    threshold: float


def folds_of(prompts: Sequence[str], folds: int) -> dict[str, int]:
    """The fold of each prompt, in turn."""
    return {prompt: place % folds for place, prompt in enumerate(sorted(set(prompts)))}


def train(risk: RiskSet, horizon: int, false_alarms: float, runs: np.ndarray) -> Trained:
    """Learn from some runs, a mask ``[runs]``: the threshold is set on scores that their prompts had no part
    in.
    """
    names, tokens = family_names(*FAMILIES), runs[risk.run]
    predictor = LogisticHazard(horizon, names)
    inner = min(INNER, risk.runs["prompt"][runs].nunique())
    scores = scores_of(risk, predictor, prompt_splits(risk.runs, inner, runs))
    highest = highest_by_run(risk.part(tokens), scores[tokens])
    right = highest[risk.ended(right=True) & runs]
    threshold = float(np.quantile(right, 1 - false_alarms)) if len(right) else 1.0
    return Trained(fit(risk, horizon, names, tokens), min(max(threshold, 0.0), 1.0))


def trained_elsewhere(
    risk: RiskSet, horizon: int, false_alarms: float, press: str, folds: dict[str, int]
) -> Iterator[tuple[int, Trained]]:
    """By fold of the prompts, what is learned without these prompts and without the press."""
    of_run = np.array([folds.get(prompt, -1) for prompt in risk.runs["prompt"]])
    others = (risk.runs["press"] != press).to_numpy()
    for fold in sorted(set(folds.values())):
        yield fold, train(risk, horizon, false_alarms, others & (of_run != fold))
