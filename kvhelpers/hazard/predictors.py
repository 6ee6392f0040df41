"""Predictors as objects: ``fit(risk, train)`` learns from some tokens at risk, ``score(risk)`` gives each
token's probability of an onset within the horizon.

Only the logistic hazard is shipped (`model`). Boosted trees, and the average of both, stand beside it for
comparison and are not stored.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import numpy as np
from scipy.special import expit, logit
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from kvhelpers.hazard.model import fit_numbers
from kvhelpers.hazard.risk_set import RiskSet

# chosen by benchmarks/hazard_choice.py, as the penalty
TREE_SETTINGS = {
    "max_iter": 40,
    "learning_rate": 0.04,
    "max_leaf_nodes": 5,
    "min_samples_leaf": 300,
    "l2_regularization": 10.0,
    "max_features": 0.2,
}
SEED = 0  # of whatever is drawn at random
FEW = 20  # features, of which every split may choose among all


class Predictor(ABC):
    """What can be trained and judged."""

    @abstractmethod
    def fit(self, risk: RiskSet, train: np.ndarray) -> Self:
        """Learn from the tokens at risk in the mask ``train`` ``[N]`` whose label is known."""

    @abstractmethod
    def score(self, risk: RiskSet) -> np.ndarray:
        """Probability of an onset for each token at risk, ``[N]``."""


class Learned(Predictor):
    """A predictor of onsets within ``horizon`` tokens from the features ``names``; without a horizon, of runs
    that end wrong or not at all (`RiskSet.label`).

    Where the training tokens hold one kind of label only, nothing else can be learned than its rate, which is
    then the score of every token.
    """

    def __init__(self, horizon: int | None, names: Sequence[str]):
        self.horizon, self.names = horizon, tuple(names)
        self.only_rate: float | None = None

    def fit(self, risk: RiskSet, train: np.ndarray) -> Self:
        label = risk.label(self.horizon)
        known = train & ~np.isnan(label)
        found = label[known]
        self.only_rate = (float(found.mean()) if len(found) else 0.0) if len(set(found)) < 2 else None
        if self.only_rate is None:
            self._learn(risk, known, label)
        return self

    def score(self, risk: RiskSet) -> np.ndarray:
        return np.full(len(risk.run), self.only_rate) if self.only_rate is not None else self._scores(risk)

    @abstractmethod
    def _learn(self, risk: RiskSet, known: np.ndarray, label: np.ndarray) -> None:
        """Learn from the tokens in the mask ``known`` ``[N]``, whose ``label`` ``[N]`` is not NaN."""

    @abstractmethod
    def _scores(self, risk: RiskSet) -> np.ndarray: ...


class OfTokens(Learned):
    """What learns from tokens one by one, whatever run they belong to."""

    def _learn(self, risk: RiskSet, known: np.ndarray, label: np.ndarray) -> None:
        self._fit(risk.columns(self.names, known), label[known])

    def _scores(self, risk: RiskSet) -> np.ndarray:
        return self._score(risk.columns(self.names))

    @abstractmethod
    def _fit(self, features: np.ndarray, label: np.ndarray) -> None: ...

    @abstractmethod
    def _score(self, features: np.ndarray) -> np.ndarray: ...


class LogisticHazard(OfTokens):
    """The logistic regression of `model.fit`."""

    def _fit(self, features: np.ndarray, label: np.ndarray) -> None:
        self.numbers = fit_numbers(features, label)

    def _score(self, features: np.ndarray) -> np.ndarray:
        return self.numbers.score(features)


class BoostedTrees(OfTokens):
    """Gradient-boosted trees on histograms (scikit-learn's), so many ``rounds`` of them."""

    def __init__(self, horizon: int | None, names: Sequence[str], rounds: int = TREE_SETTINGS["max_iter"]):
        super().__init__(horizon, names)
        self.rounds = rounds

    def best_round(self, risk: RiskSet) -> np.ndarray:
        """Scores ``[N]`` after the round that does best on these very tokens, by AUROC over all pairs:
        early stopping on what is reported, as some published predictors were judged. Not to be used but to
        show what that does.
        """
        label = risk.label(self.horizon)
        known = ~np.isnan(label)
        if self.only_rate is not None or len(set(label[known])) < 2:
            return self.score(risk)
        stages = self.trees.staged_predict_proba(self._filled(risk.columns(self.names)))
        rounds = (stage[:, 1] for stage in stages)
        return max(rounds, key=lambda scores: roc_auc_score(label[known], scores[known]))

    def _fit(self, features: np.ndarray, label: np.ndarray) -> None:
        self.empty = np.isnan(features).all(0)
        few = {} if features.shape[1] > FEW else {"max_features": 1.0}
        self.trees = HistGradientBoostingClassifier(
            **TREE_SETTINGS | few | {"max_iter": self.rounds}, early_stopping=False, random_state=SEED
        )
        self.trees.fit(self._filled(features), label)

    def _score(self, features: np.ndarray) -> np.ndarray:
        return self.trees.predict_proba(self._filled(features))[:, 1]

    def _filled(self, features: np.ndarray) -> np.ndarray:
        return np.where(self.empty, 0, features)  # scikit-learn's bins need a value


class BaseRate(Predictor):
    """The rate of onsets among all tokens at risk, whatever their fold: rates that differ between folds would
    look like knowledge, the wrong way round.
    """

    def __init__(self, horizon: int | None):
        self.horizon = horizon

    def fit(self, risk: RiskSet, train: np.ndarray) -> Self:
        self.rate = float(np.nanmean(risk.label(self.horizon)))
        return self

    def score(self, risk: RiskSet) -> np.ndarray:
        return np.full(len(risk.run), self.rate)


def averaged(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The average of two predictors' log-odds, as probabilities ``[N]``."""
    with np.errstate(divide="ignore"):
        return expit((logit(first) + logit(second)) / 2)
