"""A rate with its Wilson interval."""

from __future__ import annotations

from scipy.stats import binomtest

from kvhelpers.records import Rate


def wilson(count: int, n: int, confidence: float = 0.95) -> Rate:
    """A rate with its Wilson interval, 95 % unless asked (Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953)."""
    interval = binomtest(count, n).proportion_ci(confidence_level=confidence, method="wilson")
    return Rate(count=count, n=n, rate=count / n, low=float(interval.low), high=float(interval.high))
