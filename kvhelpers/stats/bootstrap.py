"""Intervals by bootstrap over prompts: all runs of a prompt are drawn together, since they are not
independent.

Expanded percentile intervals (Hesterberg 2015, https://doi.org/10.1080/00031305.2015.1089789) of the cluster
bootstrap (Field and Welsh 2007, https://doi.org/10.1111/j.1467-9868.2007.00593.x). A draw of the prompts is a
weight for each prompt: how often it was drawn. How often they hold the truth:
``benchmarks/interval_coverage.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy.stats import norm, t

from kvhelpers.stats.wilson import wilson

RESAMPLES = 1000
CHUNKS = 10  # the draws are computed in so many parts, to save memory
NORMAL_DRAWS = 100_000
ENOUGH_PROMPTS = 50  # with fewer, a log says that the intervals can be too narrow
ENOUGH_DRAWS = 0.95  # share of the draws that must be defined; where it is less there is no interval

Statistic = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, the number of units (runs) behind it and of prompts they belong to.

    ``low`` and ``high`` are None where there is no interval: fewer than two prompts, or too few units of a
    kind to draw from.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    prompts: int


def estimate(statistic: Statistic, prompts: Sequence[str], seed: int = 0) -> Estimate | None:
    """A statistic of units that belong to prompts, with its interval; None where the data leave it undefined.

    Parameters
    ----------
    statistic : maps weights ``[draws, units]`` to values ``[draws]``; NaN where a draw leaves it undefined.
    prompts : the prompt of each unit.
    """
    if not len(prompts):
        return None
    value, low, high = (known(x[0]) for x in intervals(lambda w: statistic(w)[:, None], prompts, seed))
    return None if value is None else Estimate(value, low, high, len(prompts), len(set(prompts)))


def known(value: float) -> float | None:
    """A number of `intervals` or `percentile_ends` as an `Estimate` has it: None where there is none."""
    return None if np.isnan(value) else float(value)


def intervals(
    statistic: Statistic, prompts: Sequence[str], seed: int = 0, counts: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, lower and upper ends ``[K]`` of a statistic with K values, NaN where there are none.

    ``statistic`` maps weights ``[draws, units]`` to ``[draws, K]``; all K are computed on the same draws.
    ``counts [K]`` are the prompts that each value rests on, where these are not all.
    """
    values, drawn = draw(statistic, prompts, seed)
    return values, *percentile_ends(drawn, len(set(prompts)) if counts is None else counts)


def draw(statistic: Statistic, prompts: Sequence[str], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A statistic's K values ``[K]``, and those of all draws ``[RESAMPLES, K]``; NaN with a single prompt, of
    which nothing can be drawn.
    """
    codes, names = pd.factorize(np.asarray(prompts, dtype=object))
    with np.errstate(divide="ignore", invalid="ignore"):
        values = statistic(np.ones((1, len(codes))))[0]
        if len(names) < 2:
            return values, np.full((RESAMPLES, len(values)), np.nan)
        parts = np.split(draws(len(names), seed), CHUNKS)
        return values, np.concatenate([statistic(weights[:, codes]) for weights in parts])


def percentile_ends(drawn: np.ndarray, prompts: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends ``[K]`` of each value's own 95 % interval, from its draws ``[draws, K]``.

    ``prompts`` is how many a value rests on, one number or ``[K]``. Plain percentiles are too narrow for few
    prompts. These are moved outwards until they would be Student's interval for a mean of normal values:
    1.6 % of the draws lie beyond each end with 20 prompts, 2.1 % with 50, 2.5 % with ever more. With 5 they
    hold the mean of normal values in 91 % of experiments only: the draws of so few are too alike.
    """
    prompts = np.broadcast_to(prompts, drawn.shape[1:])
    low, high = np.full((2, drawn.shape[1]), np.nan)
    for k in np.flatnonzero(_enough(drawn) & (prompts > 1)):
        tail = norm.cdf(-_errors_wide(prompts[k]))
        low[k], high[k] = np.nanquantile(drawn[:, k], [tail, 1 - tail])
    return low, high


def _errors_wide(prompts: int) -> float:
    """Of how many standard errors of the bootstrap Student's interval is, each way: 1.96 for many prompts."""
    return float(np.sqrt(prompts / (prompts - 1)) * t.ppf(0.975, prompts - 1))


def simultaneous_errors(drawn: np.ndarray, prompts: int) -> tuple[np.ndarray, float]:
    """Standard errors ``[K]`` of values from their draws ``[draws, K]``, and of how many errors the intervals
    are that hold for all K at once in 95 % of experiments. The errors are larger than the draws' spread, as
    Student's interval for so many prompts is wider than 1.96 times that spread.

    The number is the .95 quantile of the largest of K normal variables that are correlated as the draws are
    (Hothorn, Bretz and Westfall 2008, https://doi.org/10.1002/bimj.200810425): 1.96 for one value, more for
    several, the less so the more they move together.
    """
    wider = _errors_wide(prompts) / norm.ppf(0.975) if prompts > 1 else np.nan
    errors = np.where(_enough(drawn), np.nanstd(drawn, axis=0) * wider, np.nan)
    moving = drawn[:, np.nan_to_num(errors) > 0]
    moving = moving[np.isfinite(moving).all(1)]
    if not moving.shape[1]:
        return errors, float(norm.ppf(0.975))
    correlation = np.atleast_2d(np.corrcoef(moving, rowvar=False))
    normal = np.random.default_rng(0).multivariate_normal(
        np.zeros(len(correlation)), correlation, NORMAL_DRAWS, method="eigh"
    )
    return errors, float(np.quantile(np.abs(normal).max(1), 0.95))


def _enough(drawn: np.ndarray) -> np.ndarray:
    """Which of the K values have enough draws for an interval, ``[K]``."""
    return (~np.isnan(drawn)).mean(0) >= ENOUGH_DRAWS


@lru_cache(maxsize=16)
def draws(n_prompts: int, seed: int = 0) -> np.ndarray:
    """How often each prompt is drawn, ``[RESAMPLES, prompts]``."""
    return (
        np.random.default_rng(seed)
        .multinomial(n_prompts, np.full(n_prompts, 1 / n_prompts), size=RESAMPLES)
        .astype(float)
    )


def proportion(values: np.ndarray, prompts: Sequence[str]) -> Estimate | None:
    """The share of units for which ``values`` is true, with its interval; see `widened`."""
    share = estimate(mean(values), prompts)
    return share and widened(share)


def widened(share: Estimate) -> Estimate:
    """A share as it is, but with Wilson's interval (1927), each prompt counting once, where all units agree:
    no draw of them differs from another.
    """
    if share.low is None or 0 < share.value < 1:
        return share
    of_prompts = wilson(round(share.value * share.prompts), share.prompts)
    return replace(share, low=of_prompts.low, high=of_prompts.high)


def mean(values: np.ndarray) -> Statistic:
    """The mean of the units' values."""
    return lambda weights: weights @ np.asarray(values, dtype=float) / weights.sum(1)
