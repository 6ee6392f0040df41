"""Predictors as objects: ``fit(risk, train)`` learns from some tokens at risk, ``score(risk)`` gives each
token's probability of an onset within the horizon.

Only the logistic hazard is shipped (`model`); boosted trees stand beside it for comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.ensemble import HistGradientBoostingClassifier

from kvhelpers.hazard.model import logistic
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


class Predictor(Protocol):
    """What can be trained and judged."""

    def fit(self, risk: RiskSet, train: np.ndarray) -> Self:
        """Learn from the tokens at risk in the mask ``train`` ``[N]`` whose label is known."""

    def score(self, risk: RiskSet) -> np.ndarray:
        """Probability of an onset for each token at risk, ``[N]``."""


class Learned:
    """A classifier of scikit-learn's that learns onsets within ``horizon`` tokens from features ``names``;
    without a horizon, runs that end wrong or not at all (`RiskSet.label`).

    Where the training tokens hold one kind of label only, nothing else can be learned than its rate, which is
    then the score of every token.
    """

    def __init__(self, horizon: int | None, names: Sequence[str], classifier: ClassifierMixin):
        self.horizon, self.names, self.classifier = horizon, tuple(names), classifier

    def fit(self, risk: RiskSet, train: np.ndarray) -> Self:
        label = risk.label(self.horizon)
        known = train & ~np.isnan(label)
        found = label[known]
        self.only_rate = (float(found.mean()) if len(found) else 0.0) if len(set(found)) < 2 else None
        if self.only_rate is None:
            features = risk.columns(self.names, known)
            self.missing = np.isnan(features).all(0)
            self.classifier.fit(self.filled(features), found)
        return self

    def score(self, risk: RiskSet) -> np.ndarray:
        if self.only_rate is not None:
            return np.full(len(risk.run), self.only_rate)
        return self.classifier.predict_proba(self.filled(risk.columns(self.names)))[:, 1]

    def filled(self, features: np.ndarray) -> np.ndarray:
        """In double precision; a feature that is missing everywhere is 0, since trees need a value."""
        return np.where(self.missing, 0, features).astype(float)


class LogisticHazard(Learned):
    """The logistic regression of `model`."""

    def __init__(self, horizon: int | None, names: Sequence[str]):
        super().__init__(horizon, names, logistic())


class BoostedTrees(Learned):
    """Gradient-boosted trees on histograms, so many ``rounds`` of them."""

    def __init__(self, horizon: int | None, names: Sequence[str], rounds: int = TREE_SETTINGS["max_iter"]):
        few = {} if len(names) > FEW else {"max_features": 1.0}
        settings = TREE_SETTINGS | few | {"max_iter": rounds, "early_stopping": False, "random_state": SEED}
        super().__init__(horizon, names, HistGradientBoostingClassifier(**settings))
