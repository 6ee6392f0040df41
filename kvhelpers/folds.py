"""Predictions for runs that a predictor has not seen: folds that share no prompt, and presses or tasks left out as well."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from kvhelpers.errors import InputError
from kvhelpers.hazard import AVERAGE, KINDS, fit
from kvhelpers.presses import NONE
from kvhelpers.riskset import RiskSet

FOLDS, INNER = 5, 3
Fit = Callable[[RiskSet, np.ndarray], Callable[[RiskSet], np.ndarray]]  # training mask to a scoring function


def fold_of_run(risk: RiskSet, folds: int = FOLDS) -> np.ndarray:
    """The fold of each run, ``[runs]``; all runs of a prompt, in whatever cell, are in one fold.

    Raises
    ------
    InputError : fewer than two folds, or more than prompts.
    """
    prompts = sorted(set(risk.runs["prompt"]), key=lambda prompt: hashlib.sha256(prompt.encode()).digest())
    if not 2 <= folds <= len(prompts):
        raise InputError(f"folds {folds} is not allowed; it is at least 2 and at most the number of prompts, {len(prompts)}")
    fold = {prompt: index % folds for index, prompt in enumerate(prompts)}
    return risk.runs["prompt"].map(fold).to_numpy()


def out_of_fold(risk: RiskSet, learn: Fit, folds: int = FOLDS) -> np.ndarray:
    """Each token's score by a predictor trained on other prompts, ``[N]``."""
    fold, scores = fold_of_run(risk, folds)[risk.run], np.full(len(risk.run), np.nan)
    for held in range(folds):
        test = fold == held
        scores[test] = learn(risk, ~test)(risk.part(test))
    return scores


def out_of_fold_kinds(risk: RiskSet, horizon: int, names: Sequence[str], folds: int = FOLDS) -> dict[str, np.ndarray]:
    """`out_of_fold` scores by kind of hazard model: the average and the two that it averages."""
    fold, scores = fold_of_run(risk, folds)[risk.run], {kind: np.full(len(risk.run), np.nan) for kind in KINDS}
    for held in range(folds):
        test = fold == held
        if (rate := only_rate(risk, horizon, ~test)) is not None:
            for kind in KINDS:
                scores[kind][test] = rate
            continue
        model, features = fit(risk, horizon, names, AVERAGE, ~test), risk.columns(names)[test]
        for kind in KINDS:
            scores[kind][test] = replace(model, kind=kind).score(features)
    return scores


def press_left_out(risk: RiskSet, learn: Fit, folds: int = FOLDS) -> np.ndarray:
    """Each token's score by a predictor trained on other prompts *and* other presses; NaN for uncompressed runs."""
    fold, press = fold_of_run(risk, folds)[risk.run], risk.runs["press"].to_numpy()[risk.run]
    scores = np.full(len(risk.run), np.nan)
    for held_press in sorted(set(press) - {NONE}):
        for held in range(folds):
            test = (fold == held) & (press == held_press)
            if test.any():
                scores[test] = learn(risk, (fold != held) & (press != held_press))(risk.part(test))
    return scores


def task_left_out(risk: RiskSet, learn: Fit) -> np.ndarray:
    """Each token's score by a predictor trained on the other tasks, which share no prompt; NaN where there is one task only."""
    task, scores = risk.runs["task"].to_numpy()[risk.run], np.full(len(risk.run), np.nan)
    for held in sorted(set(task)):
        test = task == held
        if not test.all():
            scores[test] = learn(risk, ~test)(risk.part(test))
    return scores


def learner(horizon: int, names: Sequence[str], kind: str) -> Fit:
    """How to train and score a hazard model on some features."""

    def learn(risk: RiskSet, train: np.ndarray) -> Callable[[RiskSet], np.ndarray]:
        if (rate := only_rate(risk, horizon, train)) is not None:
            return lambda other: np.full(len(other.run), rate)
        model = fit(risk, horizon, names, kind, train)
        return lambda other: model.score(other.columns(names))

    return learn


def only_rate(risk: RiskSet, horizon: int, train: np.ndarray) -> float | None:
    """The rate of failures where training tokens hold only one kind of label, and nothing else can be learned; else None."""
    label = risk.label(horizon)[train]
    known = label[~np.isnan(label)]
    return None if len(set(known)) > 1 else float(known.mean()) if len(known) else 0.0
