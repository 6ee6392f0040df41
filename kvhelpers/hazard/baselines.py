"""What a predictor of failures has to beat: scores that know less than a run's signals do."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import numpy as np
import pandas as pd

from kvhelpers.frames import uncompressed
from kvhelpers.hazard.predictors import BoostedTrees, LogisticHazard, Predictor
from kvhelpers.hazard.risk_set import RiskSet

CONDITION = ["experiment", "condition"]
SLACK = 0.5  # standard deviations above the mean that the CUSUM forgives
PRIOR = 50  # tokens


class FailureRate:
    """How often the condition's runs fail (without a horizon: do not end right) on the training prompts;
    failures without a token at risk count.
    """

    def __init__(self, horizon: int | None):
        self.horizon = horizon

    def fit(self, risk: RiskSet, train: np.ndarray) -> Self:
        runs = risk.runs.assign(bad=risk.runs["failed"] if self.horizon else ~risk.ended(right=True))
        seen = runs["prompt"].isin(set(risk.prompts[train]))
        self.rates = runs[seen].groupby(CONDITION)["bad"].mean()
        return self

    def score(self, risk: RiskSet) -> np.ndarray:
        return _looked_up(self.rates, risk.runs[CONDITION])[risk.run]


class Clock:
    """How often a failure begins within the horizon at tokens of the condition with about this number, in
    bins of half an octave: drawn towards the condition's rate, and that towards all tokens', as if 50 tokens
    had it.
    """

    def __init__(self, horizon: int):
        self.horizon = horizon

    def fit(self, risk: RiskSet, train: np.ndarray) -> Self:
        label = risk.label(self.horizon)
        known = train & ~np.isnan(label)
        tokens = _cells(risk)[known].assign(label=label[known])
        self.base = tokens["label"].mean()
        count = tokens.groupby(CONDITION)["label"].agg(["sum", "size"])
        self.rates = (count["sum"] + PRIOR * self.base) / (count["size"] + PRIOR)
        count = tokens.groupby([*CONDITION, "bin"])["label"].agg(["sum", "size"])
        towards = self.rates.reindex(count.index.droplevel("bin")).to_numpy()
        self.cells = (count["sum"] + PRIOR * towards) / (count["size"] + PRIOR)
        return self

    def score(self, risk: RiskSet) -> np.ndarray:
        cells = _cells(risk)
        rates = _looked_up(self.rates, cells[CONDITION])
        found = _looked_up(self.cells, cells)
        return np.where(np.isnan(found), np.where(np.isnan(rates), self.base, rates), found)


class CusumOfEntropy(LogisticHazard):
    """Logistic hazard on the one-sided CUSUM of entropy (Page 1954) along each run,
    S = max(0, S + (H - mean) / spread - 0.5); mean and spread are those of uncompressed training runs, or of
    all if there are none.
    """

    def __init__(self, horizon: int | None):
        super().__init__(horizon, ("cusum",))

    def fit(self, risk: RiskSet, train: np.ndarray) -> Self:
        reference = train & uncompressed(risk.runs).to_numpy()[risk.run]
        usual = risk.columns(["entropy"], reference if reference.any() else train)[:, 0]
        self.mean, self.spread = float(usual.mean()), float(usual.std()) or 1.0
        return super().fit(with_cusum(risk, self.mean, self.spread), train)

    def score(self, risk: RiskSet) -> np.ndarray:
        return super().score(with_cusum(risk, self.mean, self.spread))


def with_cusum(risk: RiskSet, mean: float, spread: float) -> RiskSet:
    """The risk set with one feature only, ``cusum``."""
    excess = (risk.columns(["entropy"])[:, 0] - mean) / spread - SLACK
    begins = np.diff(risk.run, prepend=-1) != 0
    sums, last = np.zeros(len(risk.run)), 0.0
    for index, (value, first) in enumerate(zip(excess.tolist(), begins.tolist(), strict=True)):
        last = max(0.0, (0.0 if first else last) + value)
        sums[index] = last
    return replace(risk, features=sums[:, None].astype(np.float32), names=("cusum",))


def baselines(risk: RiskSet, horizon: int | None) -> dict[str, Predictor]:
    """The baselines by name, untrained."""
    press = [name for name in risk.names if name.startswith("press_")]
    return {
        "failure rate": FailureRate(horizon),
        "share removed × press": BoostedTrees(horizon, ("removed", *press)),
        "share removed": BoostedTrees(horizon, ("removed",)),
        "position": BoostedTrees(horizon, ("position",)),
        "entropy": LogisticHazard(horizon, ("entropy",)),
        "rolling entropy (16)": LogisticHazard(horizon, ("entropy_mean16",)),
        "CUSUM of entropy": CusumOfEntropy(horizon),
        "repetition detector": LogisticHazard(horizon, ("repeated_suffix_max16",)),
        "canary": LogisticHazard(horizon, ("kl_mean",)),
    }


def _cells(risk: RiskSet) -> pd.DataFrame:
    cells = risk.runs[CONDITION].iloc[risk.run].reset_index(drop=True)
    return cells.assign(bin=np.floor(2 * np.log2(risk.step)).astype(int))


def _looked_up(values: pd.Series, keys: pd.DataFrame) -> np.ndarray:
    """The value of each row of keys, NaN where there is none."""
    return values.reindex(pd.MultiIndex.from_frame(keys)).to_numpy()
