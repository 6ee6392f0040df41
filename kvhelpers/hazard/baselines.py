"""The predictor that is proposed and the baselines it has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from kvhelpers.hazard.features import MAIN, family_names
from kvhelpers.hazard.predictors import BaseRate, BoostedTrees, LogisticHazard, Predictor
from kvhelpers.hazard.risk_set import RiskSet
from kvhelpers.presses.registry import NONE

PROPOSED, TREES, RECURRENT = "logistic hazard", "boosted trees", "recurrent network"
AVERAGE = f"average of {PROPOSED} and {TREES}"
BASE_RATE, CONDITION = "base rate", "share removed × press"
CUSUM = "cusum"
SLACK = 0.5  # standard deviations above the mean that the CUSUM forgives


class CusumOfEntropy(Predictor):
    """Logistic hazard on the CUSUM of entropy (`with_cusum`); mean and spread are those of uncompressed
    training runs, or of all if there are none.
    """

    def __init__(self, horizon: int | None):
        self.hazard = LogisticHazard(horizon, (CUSUM,))

    def fit(self, risk: RiskSet, train: np.ndarray) -> Self:
        reference = train & (risk.runs["press"] == NONE).to_numpy()[risk.run]
        usual = risk.columns(["entropy"], reference if reference.any() else train)[:, 0]
        self.mean, self.spread = float(usual.mean()), float(usual.std()) or 1.0
        self.hazard.fit(with_cusum(risk, self.mean, self.spread), train)
        return self

    def score(self, risk: RiskSet) -> np.ndarray:
        return self.hazard.score(with_cusum(risk, self.mean, self.spread))


def press_names(risk: RiskSet) -> tuple[str, ...]:
    """The features that tell the press."""
    return tuple(name for name in risk.names if name.startswith("press_"))


def baselines(risk: RiskSet, horizon: int | None) -> dict[str, Predictor]:
    """The baselines by name, untrained."""
    condition = ("removed", *press_names(risk))
    return {
        BASE_RATE: BaseRate(horizon),
        "position": BoostedTrees(horizon, family_names("position")),
        "share removed": BoostedTrees(horizon, ("removed",)),
        CONDITION: BoostedTrees(horizon, condition),
        "entropy": LogisticHazard(horizon, ("entropy",)),
        "rolling entropy (16)": LogisticHazard(horizon, ("entropy_mean16",)),
        "CUSUM of entropy": CusumOfEntropy(horizon),
        "repetition detector": LogisticHazard(horizon, ("repeated_suffix_max16",)),
        "canary": LogisticHazard(horizon, ("kl_mean",)),
    }


def proposed(horizon: int | None, families: Sequence[str] = MAIN) -> LogisticHazard:
    """The proposed predictor, untrained."""
    return LogisticHazard(horizon, family_names(*families))


def with_cusum(risk: RiskSet, mean: float, spread: float) -> RiskSet:
    """The risk set with one feature only: the one-sided CUSUM of entropy (Page 1954),
    S = max(0, S + (H - mean) / spread - 0.5), along each run.
    """
    excess = (risk.columns(["entropy"])[:, 0] - mean) / spread - SLACK
    begins = np.diff(risk.run, prepend=-1) != 0
    sums, last = np.zeros(len(risk.run)), 0.0
    for index, (value, first) in enumerate(zip(excess.tolist(), begins.tolist(), strict=True)):
        last = max(0.0, (0.0 if first else last) + value)
        sums[index] = last
    return RiskSet(risk.runs, risk.run, risk.step, sums[:, None].astype(np.float32), (CUSUM,))
