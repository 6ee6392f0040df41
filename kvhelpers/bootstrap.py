"""Intervals by bootstrap over prompts: all runs of a prompt are drawn together, since they are not independent.

Percentile intervals of the cluster bootstrap (Efron 1979, https://doi.org/10.1214/aos/1176344552; Field and Welsh 2007,
https://doi.org/10.1111/j.1467-9868.2007.00593.x). A draw of the prompts is a weight for each prompt: how often it was drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy.stats import binomtest

RESAMPLES = 1000
CHUNKS = 10  # the draws are computed in so many parts, to save memory
ENOUGH_DRAWS = 0.95  # share of the draws that must be defined; where it is less there is no interval

Statistic = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, the number of units (runs) behind it and of prompts they belong to.

    ``low`` and ``high`` are None where there is no interval: fewer than two prompts, or too few units of a kind to draw from.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    prompts: int

    def text(self, digits: int = 2) -> str:
        """``0.71 [0.60, 0.83]``."""
        interval = "no interval" if self.low is None else f"{self.low:.{digits}f}, {self.high:.{digits}f}"
        return f"{self.value:.{digits}f} [{interval}]"

    def percent(self) -> str:
        """``71 % [60, 83]``."""
        interval = "no interval" if self.low is None else f"{100 * self.low:.0f}, {100 * self.high:.0f}"
        return f"{100 * self.value:.0f} % [{interval}]"


def estimate(statistic: Statistic, prompts: Sequence[str], seed: int = 0) -> Estimate | None:
    """A statistic of units that belong to prompts, with its interval; None where the data leave it undefined.

    Parameters
    ----------
    statistic : maps weights ``[draws, units]`` to values ``[draws]``; NaN where a draw leaves it undefined.
    prompts : the prompt of each unit.
    """
    if not len(prompts):
        return None
    value, low, high = (
        None if np.isnan(x[0]) else float(x[0]) for x in intervals(lambda w: statistic(w)[:, None], prompts, seed)
    )
    return None if value is None else Estimate(value, low, high, len(prompts), len(set(prompts)))


def intervals(statistic: Statistic, prompts: Sequence[str], seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, lower and upper ends ``[K]`` of a statistic with K values, NaN where there are none.

    ``statistic`` maps weights ``[draws, units]`` to ``[draws, K]``; all K are computed on the same draws.
    """
    codes, names = pd.factorize(np.asarray(prompts, dtype=object))
    with np.errstate(divide="ignore", invalid="ignore"):
        values = statistic(np.ones((1, len(codes))))[0]
        drawn = np.concatenate([statistic(weights[:, codes]) for weights in np.split(draws(len(names), seed), CHUNKS)])
    enough = (~np.isnan(drawn)).mean(0) >= ENOUGH_DRAWS
    low, high = np.full((2, len(values)), np.nan)
    if len(names) > 1 and enough.any():
        low[enough], high[enough] = np.nanpercentile(drawn[:, enough], [2.5, 97.5], axis=0)
    return values, low, high


@lru_cache(maxsize=16)
def draws(n_prompts: int, seed: int = 0) -> np.ndarray:
    """How often each prompt is drawn, ``[RESAMPLES, prompts]``."""
    return np.random.default_rng(seed).multinomial(n_prompts, np.full(n_prompts, 1 / n_prompts), size=RESAMPLES).astype(float)


def proportion(values: np.ndarray, prompts: Sequence[str]) -> Estimate | None:
    """The share of units for which ``values`` is true, with its interval.

    Where all units agree, no draw differs from another: the interval is then Wilson's (1927), each prompt counting once.
    """
    found = estimate(mean(values), prompts)
    if found is None or found.low is None or 0 < found.value < 1:
        return found
    wilson = binomtest(round(found.value * found.prompts), found.prompts).proportion_ci(method="wilson")
    return replace(found, low=float(wilson.low), high=float(wilson.high))


def mean(values: np.ndarray) -> Statistic:
    """The mean of the units' values."""
    return lambda weights: weights @ np.asarray(values, dtype=float) / weights.sum(1)


def auroc(scores: np.ndarray, positive: np.ndarray, strata: np.ndarray | None = None) -> Statistic:
    """Area under the ROC curve: how often a positive unit scores above a negative one, ties counting half.

    The Mann-Whitney form (Hanley and McNeil 1982, https://doi.org/10.1148/radiology.143.1.7063747). Undefined without both
    kinds. With ``strata`` only units of the same stratum are compared, and all such pairs count alike.
    """
    scores, positive = np.asarray(scores, dtype=float), np.asarray(positive, dtype=bool)
    strata = np.zeros(len(scores)) if strata is None else np.asarray(strata)
    parts = [(members, *_ranked(scores[members], positive[members])) for members in _members(strata)]

    def statistic(weights: np.ndarray) -> np.ndarray:
        wins, pairs = np.zeros((2, len(weights)))
        for members, order, starts, is_positive in parts:
            own = weights[:, members[order]]
            above = np.add.reduceat(own * is_positive, starts, axis=1)
            below = np.add.reduceat(own * ~is_positive, starts, axis=1)
            wins += (above * (below.cumsum(1) - below / 2)).sum(1)
            pairs += above.sum(1) * below.sum(1)
        return wins / pairs

    return statistic


def _members(strata: np.ndarray) -> list[np.ndarray]:
    return [np.flatnonzero(strata == name) for name in pd.unique(strata)]


def _ranked(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Order by score, where each distinct score starts, and which are positive."""
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    return order, np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1])), positive[order]
