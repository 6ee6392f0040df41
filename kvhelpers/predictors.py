"""The predictor that is proposed and the baselines it has to beat: which features, which model, and how each is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kvhelpers import folds as folds_
from kvhelpers.causal import FAMILIES
from kvhelpers.hazard import AVERAGE, BOOSTING, LOGISTIC
from kvhelpers.presses import NONE
from kvhelpers.riskset import RiskSet

MAIN = ("signals", "rolling", "repetition", "canary")
PROPOSED = "average of both"
CUSUM = "cusum"
SLACK = 0.5  # standard deviations above the mean that the CUSUM forgives


@dataclass(frozen=True)
class Method:
    """A predictor: ``names`` of features and the kind of model, or None for the base rate."""

    names: tuple[str, ...]
    kind: str | None


def family_names(*families: str) -> tuple[str, ...]:
    """The features of some families."""
    return tuple(name for family in families for name in FAMILIES[family])


def press_names(risk: RiskSet) -> tuple[str, ...]:
    """The features that tell the press."""
    return tuple(name for name in risk.names if name.startswith("press_"))


def methods(risk: RiskSet, families: Sequence[str] = MAIN) -> dict[str, Method]:
    """The proposed predictor and the baselines, by the names under which they are told."""
    return {
        PROPOSED: Method(family_names(*families), AVERAGE),
        "base rate": Method((), None),
        "position": Method(family_names("position"), BOOSTING),
        "share removed": Method(("removed",), BOOSTING),
        "share removed × press": Method(("removed", *press_names(risk)), BOOSTING),
        "entropy": Method(("entropy",), LOGISTIC),
        "rolling entropy (16)": Method(("entropy_mean16",), LOGISTIC),
        "CUSUM of entropy": Method((CUSUM,), LOGISTIC),
        "repetition detector": Method(("repeated_suffix_max16",), LOGISTIC),
        "canary": Method(("kl_mean",), LOGISTIC),
    }


def learn(method: Method, horizon: int) -> folds_.Fit:
    """How to train and score a method."""
    if method.kind is None:

        def base_rate(risk: RiskSet, train: np.ndarray) -> Callable[[RiskSet], np.ndarray]:
            rate = np.nanmean(risk.label(horizon))  # of all folds: folds of different rates would look like knowledge
            return lambda other: np.full(len(other.run), rate)

        return base_rate
    if CUSUM in method.names:

        def on_cusum(risk: RiskSet, train: np.ndarray) -> Callable[[RiskSet], np.ndarray]:
            reference = train & (risk.runs["press"] == NONE).to_numpy()[risk.run]
            usual = risk.columns(["entropy"])[reference if reference.any() else train, 0]
            mean, spread = float(usual.mean()), float(usual.std()) or 1.0
            score = folds_.learner(horizon, method.names, method.kind)(with_cusum(risk, mean, spread), train)
            return lambda other: score(with_cusum(other, mean, spread))

        return on_cusum
    return folds_.learner(horizon, method.names, method.kind)


def with_cusum(risk: RiskSet, mean: float, spread: float) -> RiskSet:
    """Add the one-sided CUSUM of entropy (Page 1954): S = max(0, S + (H - mean) / spread - 0.5), along each run."""
    entropy, found, last = (risk.columns(["entropy"])[:, 0] - mean) / spread - SLACK, np.zeros(len(risk.run)), 0.0
    for index, (value, begins) in enumerate(zip(entropy, np.diff(risk.run, prepend=-1) != 0, strict=True)):
        last = max(0.0, (0.0 if begins else last) + value)
        found[index] = last
    features = np.concatenate([risk.features, found[:, None].astype(np.float32)], axis=1)
    return RiskSet(risk.runs, risk.run, risk.step, features, (*risk.names, CUSUM))
