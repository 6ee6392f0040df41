"""The hazard of failure: how likely it is that a failure begins within the next tokens, for a run still at
risk.

A discrete-time hazard model (Cox 1972, section 6; Singer and Willett 1993,
https://doi.org/10.3102/10769986018002155): each token at risk is an observation, and ending by itself is a
competing event, after which no failure comes. Horizon 1 is the hazard itself; a longer one gives the
probability of an onset within so many tokens. The model is a logistic regression, whose coefficients can be
read. It is plain numbers: it is stored as JSON, and scored by the same function for a table and for one
token.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import Field, model_validator
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from kvhelpers.errors import InputError
from kvhelpers.experiment.seal import sealed_text, unsealed
from kvhelpers.hazard.risk_set import RiskSet
from kvhelpers.paths import relative, write_atomic
from kvhelpers.records import Shape

# chosen by benchmarks/hazard_choice.py on other problems (005-development): nothing was tuned on what is
# reported
PENALTY = 0.01  # inverse strength of the L2 penalty on standardized features
CLIP = 5.0  # standard deviations


class Numbers(NamedTuple):
    """What a logistic hazard learns: mean, scale and coefficient of each feature, and the intercept."""

    mean: np.ndarray
    scale: np.ndarray
    coefficient: np.ndarray
    intercept: float

    def score(self, features: np.ndarray) -> np.ndarray:
        """Probability of an onset within the horizon, ``[N]``, from features ``[N, F]``."""
        return expit(standardized(features, self.mean, self.scale) @ self.coefficient + self.intercept)


class HazardModel(Shape):
    """A trained logistic hazard.

    ``names`` are its features in order; ``mean``, ``scale`` and ``coefficient`` (log-odds per standard
    deviation) have a number for each. ``data_hash`` is the hash of its training data
    (`risk_set.RiskSet.hash`).
    """

    horizon: int = Field(ge=1)
    names: tuple[str, ...]
    data_hash: str
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    coefficient: tuple[float, ...]
    intercept: float

    @model_validator(mode="after")
    def _as_many_numbers_as_features(self) -> HazardModel:
        for field in ("mean", "scale", "coefficient"):
            if len(getattr(self, field)) != len(self.names):
                raise ValueError(
                    f"{field} has {len(getattr(self, field))} numbers for {len(self.names)} features"
                )
        return self

    @cached_property
    def _numbers(self) -> Numbers:
        return Numbers(np.array(self.mean), np.array(self.scale), np.array(self.coefficient), self.intercept)

    def score(self, features: np.ndarray) -> np.ndarray:
        """Probability of an onset within the horizon, ``[N]``, from features ``[N, F]`` in the order of
        ``names``.

        Raises
        ------
        InputError : another number of features.
        """
        features = np.atleast_2d(features)
        if features.shape[1] != len(self.names):
            raise InputError(
                f"features have {features.shape[1]} columns; the model was trained on {len(self.names)}, "
                f"{self.names[0]} to {self.names[-1]}"
            )
        return self._numbers.score(features)

    def contributions(self, features: np.ndarray) -> np.ndarray:
        """What each feature adds to the log-odds, ``[N, F]``, from features ``[N, F]``; with the intercept
        they are the log-odds of `score`.
        """
        numbers = self._numbers
        return standardized(features, numbers.mean, numbers.scale) * numbers.coefficient

    def save(self, path: Path) -> Path:
        """Write the model as JSON."""
        return write_atomic(
            path,
            lambda temporary: temporary.write_text(sealed_text(self.model_dump_json()), encoding="utf-8"),
        )


def standardized(features: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Features in standard deviations from the training mean, clipped; missing ones are the mean."""
    return np.nan_to_num(((features - mean) / scale).clip(-CLIP, CLIP))


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each feature, two ``[F]``, without missing values; 1 for one that does
    not vary.
    """
    missing = np.isnan(features)
    count = np.maximum((~missing).sum(0), 1)
    mean = np.where(missing, 0, features).sum(0, dtype=float) / count
    scale = np.sqrt((np.where(missing, 0, features - mean) ** 2).sum(0) / count)
    return mean, np.where(scale > 0, scale, 1.0)


def read_model(path: Path) -> HazardModel:
    """Read a model written by `HazardModel.save`. Raises InputError if the file is none, or was changed."""
    try:
        return HazardModel.model_validate(unsealed(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"model file {relative(path)} is no hazard model ({error!r})") from error


def fit(risk: RiskSet, horizon: int, names: Sequence[str], train: np.ndarray | None = None) -> HazardModel:
    """Train a logistic hazard on the tokens at risk in the mask ``train`` (all by default) whose label is
    known.

    Raises
    ------
    InputError : an unknown feature, a horizon below 1, or only one kind of label to learn from.
    """
    if horizon < 1:
        raise InputError(f"horizon {horizon} is below 1; it is a number of tokens")
    label = risk.label(horizon)
    known = ~np.isnan(label) if train is None else train & ~np.isnan(label)
    features, label = risk.columns(names, known), label[known]
    if len(set(label)) < 2:
        raise InputError(
            f"of {len(label)} tokens to learn from, {int(label.sum())} precede a failure; both kinds are "
            "needed"
        )
    numbers = fit_numbers(features, label)
    return HazardModel(
        horizon=horizon,
        names=tuple(names),
        data_hash=risk.part(known).hash(),
        mean=tuple(numbers.mean.tolist()),
        scale=tuple(numbers.scale.tolist()),
        coefficient=tuple(numbers.coefficient.tolist()),
        intercept=numbers.intercept,
    )


def fit_numbers(features: np.ndarray, label: np.ndarray) -> Numbers:
    """Learn from features ``[N, F]`` and labels ``[N]``, both kinds among them."""
    mean, scale = moments(features)
    model = LogisticRegression(C=PENALTY, solver="newton-cholesky")
    model.fit(standardized(features, mean, scale), label)
    return Numbers(mean, scale, model.coef_[0], float(model.intercept_[0]))
