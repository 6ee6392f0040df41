"""Between which two conditions a press falls off: how many kept tokens leave more than half of the
uncompressed accuracy, and how many leave half of it or less.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class HalfAccuracy:
    """The two neighbours on a curve between which accuracy falls to half, as kept tokens.

    With ``most`` kept tokens more than half of the uncompressed accuracy is left, with ``fewest`` half or
    less; ``fewest`` is 0 where no condition falls so far. In 95 % of the draws of prompts the two lie within
    the conditions with ``low`` and ``high``; NaN where there is no interval. ``suspect``: the condition with
    ``fewest`` has a flag that takes away its meaning. ``n`` prompts.
    """

    curve: Curve
    fewest: float
    most: float
    low: float
    high: float
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
    return sorted(filter(None, points), key=lambda point: (point.most, point.fewest))


def find_half_accuracy(curve: Curve) -> HalfAccuracy | None:
    """Where, going down the curve from no compression, the first condition has half of the uncompressed
    accuracy or less.

    Intervals by bootstrap over prompts; all conditions of a draw have the same prompts. None without a
    baseline and two compressed conditions on the same prompts, or where the uncompressed model solves too
    few.
    """
    if curve.baseline is None:
        return None
    points = (curve.baseline, *curve.results)
    right = [{record.prompt_id: record.correct for record in result.records} for result in points]
    prompts = sorted(set.intersection(*map(set, right)))
    if len(curve.results) < 2 or not prompts or baseline_is_weak(sum(right[0][prompt] for prompt in prompts)):
        return None
    correct = np.array([[of_point[prompt] for of_point in right] for prompt in prompts], dtype=float)
    kept = np.array([curve.baseline.summary.prompt_tokens, *curve.kept, 0], dtype=float)

    def neighbours(weights: np.ndarray) -> np.ndarray:
        """Places on the curve before and after the fall, ``[draws, 2]``; NaN where a draw solves nothing."""
        accuracy = weights @ correct / weights.sum(1, keepdims=True)
        fallen = np.pad(accuracy <= SHARE * accuracy[:, :1], ((0, 0), (0, 1)), constant_values=True)
        after = np.where(fallen[:, 0], np.nan, fallen.argmax(1))
        return np.stack([after - 1, after], axis=1)

    (before, after), (first, _), (_, last) = intervals(neighbours, prompts)
    return HalfAccuracy(
        curve=curve,
        fewest=float(kept[int(after)]),
        most=float(kept[int(before)]),
        low=math.nan if math.isnan(last) else float(kept[math.ceil(last)]),
        high=math.nan if math.isnan(first) else float(kept[math.floor(first)]),
        n=len(prompts),
        suspect=bool(after < len(points)) and points[int(after)].is_invalid,
    )
