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
from pathlib import Path

import numpy as np
from pydantic import Field, model_validator
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from kvhelpers.errors import InputError
from kvhelpers.experiment.seal import sealed_text, unsealed
from kvhelpers.hazard.risk_set import RiskSet
from kvhelpers.paths import relative, write_atomic
from kvhelpers.records import Shape

# chosen by benchmarks/hazard_choice.py on other problems (005-development): nothing was tuned on what is
# reported
PENALTY = 0.01  # inverse strength of the L2 penalty on standardized features
CLIP = 5.0  # standard deviations


def logistic() -> Pipeline:
    """The model, untrained: features in standard deviations from the training mean, cut at 5, missing ones at
    the mean; then a logistic regression.
    """
    regression = LogisticRegression(C=PENALTY, solver="newton-cholesky")
    return make_pipeline(StandardScaler(), FunctionTransformer(_cut), regression)


def _cut(scaled: np.ndarray) -> np.ndarray:
    return np.nan_to_num(scaled.clip(-CLIP, CLIP))


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
        return expit(self.contributions(features).sum(1) + self.intercept)

    def contributions(self, features: np.ndarray) -> np.ndarray:
        """What each feature adds to the log-odds, ``[N, F]``, from features ``[N, F]``; with the intercept
        they are the log-odds of `score`.
        """
        return _cut((features - np.array(self.mean)) / self.scale) * self.coefficient

    def save(self, path: Path) -> Path:
        """Write the model as JSON."""
        return write_atomic(
            path,
            lambda temporary: temporary.write_text(sealed_text(self.model_dump_json()), encoding="utf-8"),
        )


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
    missing = np.isnan(features).all(0)
    scaler, _, regression = logistic().fit(np.where(missing, 0, features).astype(float), label)
    return HazardModel(
        horizon=horizon,
        names=tuple(names),
        data_hash=risk.part(known).hash(),
        mean=tuple(scaler.mean_.tolist()),
        scale=tuple(scaler.scale_.tolist()),
        coefficient=tuple(regression.coef_[0].tolist()),
        intercept=float(regression.intercept_[0]),
    )
