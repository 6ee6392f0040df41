"""Which runs a predictor is trained on and which it is judged on: folds that share no prompt, and presses,
tasks or models left out as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupKFold, LeaveOneGroupOut

from kvhelpers.errors import InputError
from kvhelpers.hazard.predictors import SEED, Predictor
from kvhelpers.hazard.risk_set import RiskSet
from kvhelpers.presses.registry import NONE

FOLDS = 5


@dataclass(frozen=True)
class Split:
    """Masks over runs, ``[runs]``: those to learn from, and those to be judged on."""

    train: np.ndarray
    test: np.ndarray


def prompt_splits(runs: pd.DataFrame, folds: int = FOLDS, among: np.ndarray | None = None) -> list[Split]:
    """Folds of the runs (or of those in the mask ``among``); all runs of a prompt, in whatever condition, are
    in one fold.

    Raises
    ------
    InputError : fewer than two folds, or more than prompts.
    """
    places = np.arange(len(runs)) if among is None else np.flatnonzero(among)
    prompts = runs["prompt"].to_numpy()[places]
    whole = isinstance(folds, int) and not isinstance(folds, bool)
    if not whole or not 2 <= folds <= len(set(prompts)):
        raise InputError(
            f"folds {folds!r} is not allowed; it is at least 2 and at most the number of prompts, "
            f"{len(set(prompts))}"
        )
    return [
        Split(_mask(places[train], len(runs)), _mask(places[test], len(runs)))
        for train, test in GroupKFold(folds).split(places, groups=prompts)
    ]


def press_splits(runs: pd.DataFrame, folds: int = FOLDS) -> list[Split]:
    """Each press left out, and the fold's prompts too; uncompressed runs are learned from only."""
    return [split for split in _without("press", runs, folds) if (runs["press"][split.test] != NONE).all()]


def task_splits(runs: pd.DataFrame, folds: int = FOLDS) -> list[Split]:
    """Each task of a model left out, and the fold's prompts too. None where there is one only."""
    return _without("task", runs, folds)


def _without(column: str, runs: pd.DataFrame, folds: int) -> list[Split]:
    splits = [
        Split(_mask(train, len(runs)) & prompt.train, _mask(test, len(runs)) & prompt.test)
        for train, test in _leave_one_out(runs[column].to_numpy())
        for prompt in prompt_splits(runs, folds)
    ]
    return [split for split in splits if split.test.any()]


def with_share(split: Split, runs: pd.DataFrame, share: float) -> Split:
    """The same split with a share of its training prompts, at least two."""
    prompts = sorted(set(runs["prompt"][split.train]))
    few = np.random.default_rng(SEED).permutation(prompts)[: max(2, round(share * len(prompts)))]
    return Split(split.train & runs["prompt"].isin(few).to_numpy(), split.test)


def scores_of(risk: RiskSet, predictor: Predictor, splits: Sequence[Split]) -> np.ndarray:
    """Each token's score by a predictor trained on its split's other side, ``[N]``; NaN for tokens that are
    in no test side.
    """
    scores = np.full(len(risk.run), np.nan)
    for split in splits:
        test = split.test[risk.run]
        scores[test] = predictor.fit(risk, split.train[risk.run]).score(risk.part(test))
    return scores


def _leave_one_out(groups: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    several = len(set(groups)) > 1
    return list(LeaveOneGroupOut().split(groups, groups=groups)) if several else []


def _mask(places: np.ndarray, length: int) -> np.ndarray:
    mask = np.zeros(length, dtype=bool)
    mask[places] = True
    return mask
