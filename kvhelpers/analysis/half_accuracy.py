"""Where a press falls off: the ratio, and the kept tokens, at which accuracy is half of the uncompressed
accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kvhelpers.experiment.results import ConditionResult, find_baseline
from kvhelpers.scoring.flags import baseline_is_weak
from kvhelpers.stats import intervals

SHARE = 0.5  # of the uncompressed accuracy


@dataclass(frozen=True)
class Curve:
    """The conditions of one press that differ in ratio or budget only, by falling number of kept tokens, and
    the uncompressed one on the same prompts, if there is one.
    """

    press: str
    fields: str
    results: tuple[ConditionResult, ...]
    baseline: ConditionResult | None = None

    @property
    def name(self) -> str:
        return self.press + (f" ({self.fields})" if self.fields else "")

    @property
    def kept(self) -> list[float]:
        """Mean kept tokens of each condition."""
        return [result.summary.kept_tokens for result in self.results]


class Interval(NamedTuple):
    """A value with its 95 % interval; NaN where there is none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class HalfAccuracy:
    """A curve's half-accuracy point as ``removed`` share of the prompt's cache and as ``kept`` tokens.

    A share above ``last_removed`` or a count below ``last_kept``, the curve's end, means that the curve does
    not fall so far. ``suspect``: the condition below the crossing has a flag that takes away its meaning.
    ``n`` prompts.
    """

    curve: Curve
    removed: Interval
    kept: Interval
    last_removed: float
    last_kept: float
    n: int
    suspect: bool


def curves(results: Sequence[ConditionResult]) -> list[Curve]:
    """The compressed conditions that kept something, by press and fields, in the order of the conditions."""
    groups: dict[tuple[str, str], list[ConditionResult]] = {}
    for result in results:
        condition = result.condition
        if not condition.is_baseline and result.summary.kept_tokens is not None:
            groups.setdefault((condition.press, condition.fields), []).append(result)
    made = []
    for (press, fields), members in groups.items():
        falling = sorted(members, key=lambda result: -result.summary.kept_tokens)
        made.append(Curve(press, fields, tuple(falling), find_baseline(results, members[0])))
    return made


def find_half_accuracies(results: Sequence[ConditionResult]) -> list[HalfAccuracy]:
    """The half-accuracy points of all presses that have one to look for, the one that keeps its accuracy
    longest first. What the prefill keeps says too little of a cache that is cut again while decoding.
    """
    steady = [result for result in results if not result.cuts_while_decoding]
    points = [find_half_accuracy(curve) for curve in curves(steady)]
    return sorted(filter(None, points), key=lambda point: point.kept.value)


def find_half_accuracy(curve: Curve) -> HalfAccuracy | None:
    """The first point, going down the curve from no compression, where accuracy is half of the uncompressed
    one.

    Accuracy between two conditions is interpolated linearly. Intervals by bootstrap over prompts; all
    conditions of a draw have the same prompts. None without a baseline and two compressed conditions on the
    same prompts, or where the uncompressed model solves too few.
    """
    if curve.baseline is None:
        return None
    points = (curve.baseline, *curve.results)
    right = [{record.prompt_id: record.correct for record in result.records} for result in points]
    prompts = sorted(set.intersection(*map(set, right)))
    if len(curve.results) < 2 or not prompts or baseline_is_weak(sum(right[0][prompt] for prompt in prompts)):
        return None
    correct = np.array([[of_point[prompt] for of_point in right] for prompt in prompts], dtype=float)
    whole = curve.baseline.summary.prompt_tokens
    kept = np.array([whole, *curve.kept])

    def crossing(weights: np.ndarray) -> np.ndarray:
        at = np.array([_crossing(row, kept) for row in weights @ correct / weights.sum(1, keepdims=True)])
        return np.stack([1 - at / whole, at], axis=1)

    removed, in_tokens = (Interval(*map(float, x)) for x in zip(*intervals(crossing, prompts), strict=True))
    below = np.flatnonzero(correct.mean(0) <= SHARE * correct[:, 0].mean())
    return HalfAccuracy(
        curve=curve,
        removed=removed,
        kept=in_tokens,
        last_removed=float(1 - kept[-1] / whole),
        last_kept=float(kept[-1]),
        n=len(prompts),
        suspect=bool(len(below)) and points[below[0]].is_invalid,
    )


def _crossing(accuracy: np.ndarray, kept: np.ndarray) -> float:
    """Kept tokens at the first crossing of half the first accuracy; 0 if there is none, NaN if nothing is
    solved.
    """
    half = SHARE * accuracy[0]
    below = np.flatnonzero(accuracy <= half)
    if half == 0:
        return np.nan
    if not len(below):
        return 0.0
    after = below[0]
    share = (accuracy[after - 1] - half) / (accuracy[after - 1] - accuracy[after])
    return kept[after - 1] + share * (kept[after] - kept[after - 1])
