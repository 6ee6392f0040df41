"""Does a signal cross a threshold before the loop begins, how early, and how often in runs where nothing goes
wrong?

Thresholds are quantiles of the tokens of *uncompressed* runs, so nothing about failures was used to choose
them. Several are tried on both sides. The interval of each one's excess holds for all of them together, so
that trying many does not make a verdict. Crossings count from new token 1: token 0 comes from full attention.
A loop with its onset at token 0 or 1 has no token that could warn of it and is counted apart.

How many looping runs cross before their onset says little by itself, since a long enough run crosses
sometime. Each looping run is therefore compared with the runs of its condition that at its onset are still
going and have not begun to loop (incidence density sampling: Miettinen 1976,
https://doi.org/10.1093/oxfordjournals.aje.a112220): which share of them has crossed by then? Where fewer than
10 prompts loop the excess has no interval: a bootstrap over so few is too narrow (Cameron, Gelbach and Miller
2008, https://doi.org/10.1162/rest.90.3.414).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import pandas as pd
from scipy.stats import norm

from kvhelpers.presses.registry import NONE
from kvhelpers.records import FIRST_COMPRESSED_TOKEN
from kvhelpers.stats import (
    Estimate,
    draw,
    estimate,
    known,
    mean,
    percentile_ends,
    proportion,
    simultaneous_errors,
    widened,
    wilson,
)

QUANTILES = (0.9, 0.95, 0.99, 0.995)
USUAL = 0.99  # the quantile that speaks where no excess has an interval
ENOUGH_PROMPTS = 10


class Direction(StrEnum):
    """Whether an alarm is a value above the quantile, or one below one minus the quantile."""

    HIGH = "high"
    LOW = "low"


class AlarmVerdict(StrEnum):
    """Whether alarms come more often before loops than in comparable runs, by the interval of the excess;
    TOO_FEW: fewer than 10 prompts loop; NOTHING_TO_COMPARE: no onset has a comparable run.
    """

    WARNS = "warns"
    COMES_LESS_OFTEN = "comes less often"
    NO_EVIDENCE = "no evidence"
    TOO_FEW = "too few"
    NOTHING_TO_COMPARE = "nothing to compare"


@dataclass(frozen=True)
class Alarms:
    """What the crossings of one threshold are worth.

    threshold : the ``quantile`` (or one minus it) of the ``threshold_tokens`` tokens of uncompressed runs.
    loops : looping runs that could be warned of; ``immediate`` are those that could not, see above.
    caught : share of looping runs that cross before their onset; ``lead`` is onset minus first crossing, in
        tokens, of those.
    matched : the same share among looping runs that have comparable runs, ``by_chance`` the share of these
        that have crossed by the same token, ``excess`` the difference; None where no looping run has a
        comparable one. The 95 % interval of ``excess`` holds for all ``tried`` thresholds together.
    false_alarms : share of healthy runs that cross; ``alarms_per_run`` their mean number of separate
        crossings. Healthy runs end with the right answer; they are compressed ones where there are any
        (``healthy_compressed``), so that the threshold has not seen them.
    """

    direction: Direction
    threshold: float
    quantile: float
    threshold_tokens: int
    loops: int
    immediate: int
    caught: Estimate | None
    lead: np.ndarray
    matched: Estimate | None
    by_chance: Estimate | None
    excess: Estimate | None
    tried: int
    false_alarms: Estimate | None
    alarms_per_run: Estimate | None
    healthy_compressed: bool

    @property
    def verdict(self) -> AlarmVerdict:
        if self.excess is None:
            return AlarmVerdict.NOTHING_TO_COMPARE
        if self.excess.low is None:
            return AlarmVerdict.TOO_FEW
        if self.excess.low > 0:
            return AlarmVerdict.WARNS
        return AlarmVerdict.COMES_LESS_OFTEN if self.excess.high < 0 else AlarmVerdict.NO_EVIDENCE

    @property
    def lead_quartiles(self) -> tuple[float, float, float] | None:
        """Lower quartile, median and upper quartile of the lead in tokens; None where no loop is caught."""
        return tuple(np.percentile(self.lead, [25, 50, 75]).tolist()) if len(self.lead) else None


def judge_alarms(
    runs: pd.DataFrame, signal: np.ndarray, quantiles: Sequence[float] = QUANTILES
) -> list[Alarms]:
    """Judge thresholds on a signal, high ones first; empty if there is no uncompressed token to set them on.

    Parameters
    ----------
    runs : from `frames.runs`.
    signal : ``[runs, tokens]``, from `runs.signal_arrays`.
    quantiles : of the tokens of the uncompressed runs; an alarm is a value above one of them, or below one
        minus one of them.
    """
    signal = signal[:, FIRST_COMPRESSED_TOKEN:]
    uncompressed = signal[(runs["press"] == NONE).to_numpy()]
    uncompressed = uncompressed[np.isfinite(uncompressed)]
    if not len(uncompressed):
        return []
    rules = [(direction, quantile) for direction in Direction for quantile in quantiles]
    thresholds = [
        float(np.quantile(uncompressed, quantile if direction == Direction.HIGH else 1 - quantile))
        for direction, quantile in rules
    ]
    crossed = np.stack(
        [
            signal > threshold if direction == Direction.HIGH else signal < threshold
            for threshold, (direction, _) in zip(thresholds, rules, strict=True)
        ]
    )
    first = np.where(crossed.any(2), crossed.argmax(2) + FIRST_COMPRESSED_TOKEN, np.iinfo(np.int64).max)
    prompts = runs["prompt"].to_numpy()
    onset = runs["onset"].to_numpy(float, na_value=np.inf)
    loops = np.flatnonzero(np.isfinite(onset) & (onset > FIRST_COMPRESSED_TOKEN))
    before = first[:, loops] < onset[loops]  # [thresholds, loops]
    healthy = (~runs["catastrophic"] & ~runs["errored"]).to_numpy()
    compressed = healthy & (runs["press"] != NONE).to_numpy()
    healthy = compressed if compressed.any() else healthy
    calm = crossed[:, healthy]
    starts = calm & ~np.pad(calm, ((0, 0), (0, 0), (1, 0)))[:, :, :-1]
    matched = _matched(runs, first, onset, loops)
    return [
        Alarms(
            direction=direction,
            threshold=thresholds[i],
            quantile=quantile,
            threshold_tokens=len(uncompressed),
            loops=len(loops),
            immediate=int((onset <= FIRST_COMPRESSED_TOKEN).sum()),
            caught=proportion(before[i], prompts[loops]),
            lead=(onset[loops] - first[i, loops])[before[i]].astype(int),
            matched=matched[i][0],
            by_chance=matched[i][1],
            excess=matched[i][2],
            tried=len(rules),
            false_alarms=proportion(calm[i].any(1), prompts[healthy]),
            alarms_per_run=estimate(mean(starts[i].sum(1)), prompts[healthy]),
            healthy_compressed=bool(compressed.any()),
        )
        for i, (direction, quantile) in enumerate(rules)
    ]


def most_telling(alarms: Sequence[Alarms], direction: Direction) -> Alarms | None:
    """The threshold of a direction whose excess lies the furthest from zero, in units of its interval, which
    allows for this choice. Where none has an interval it is the one nearest to the usual quantile, .99; None
    if nothing was judged.
    """
    return max(
        (a for a in alarms if a.direction == direction),
        key=lambda a: (_distance(a), -abs(a.quantile - USUAL)),
        default=None,
    )


def _distance(alarms: Alarms) -> float:
    excess = alarms.excess
    if excess is None or excess.low is None:
        return 0.0
    return abs(excess.value) / (excess.high - excess.low)


def _matched(
    runs: pd.DataFrame, first: np.ndarray, onset: np.ndarray, loops: np.ndarray
) -> list[tuple[Estimate | None, Estimate | None, Estimate | None]]:
    """For each threshold, looping runs against the runs of their condition that are at risk at their onset;
    ``first`` is ``[thresholds, runs]``.
    """
    condition_of = pd.factorize(runs["condition"])[0]
    prompts, tokens = runs["prompt"].to_numpy(), runs["tokens"].to_numpy()
    at = onset[loops][:, None]
    same = condition_of == condition_of[loops][:, None]
    at_risk = same & (tokens > at) & (onset > at) & ~runs["errored"].to_numpy()  # [loops, runs]
    usable = at_risk.any(1)
    loops, at, at_risk = loops[usable], at[usable], at_risk[usable].astype(float)
    if not len(loops):
        return [(None, None, None)] * len(first)

    def shares(weights: np.ndarray) -> np.ndarray:
        """What share of the loops and of the others has crossed, and the difference, one after the other for
        all thresholds: ``[draws, 3 * thresholds]``.
        """
        others = weights @ at_risk.T
        share = weights[:, loops] * (others > 0)
        crossed = [
            np.stack(
                [
                    share @ (row[loops] < at[:, 0]),
                    (share * np.nan_to_num(weights @ (at_risk * (row < at)).T / others)).sum(1),
                ]
            )
            for row in first
        ]
        of_loops, of_others = np.stack(crossed, axis=-1) / share.sum(1)[:, None]
        return np.concatenate([of_loops, of_others, of_loops - of_others], axis=1)

    k = len(first)
    values, drawn = draw(shares, prompts)
    n_loops, n_others = (len(set(prompts[rows])) for rows in (loops, at_risk.any(0)))
    counts = np.repeat([n_loops, n_others], k)
    low, high = percentile_ends(drawn[:, : 2 * k], counts)
    made = [
        Estimate(float(value), *map(known, ends), len(loops), int(count))
        for value, count, *ends in zip(values[: 2 * k], counts, low, high, strict=True)
    ]
    errors, critical = simultaneous_errors(drawn[:, 2 * k :], n_loops)
    if n_loops < ENOUGH_PROMPTS:
        errors[:] = np.nan
    return [
        (widened(mine), widened(theirs), _excess(mine, theirs, float(error), critical))
        for mine, theirs, error in zip(made[:k], made[k:], errors, strict=True)
    ]


def _excess(mine: Estimate, theirs: Estimate, error: float, critical: float) -> Estimate:
    """The difference of two shares, ``critical`` standard errors wide.

    A share of 0 or 1 is so in every draw, as if it were certain. Wilson's interval, at the level of
    ``critical``, stands in for what the draws do not show; squares of distances add up (Zou and Donner 2008,
    https://doi.org/10.1002/sim.3095).
    """
    value = mine.value - theirs.value
    if np.isnan(error):
        return replace(mine, value=value, low=None, high=None)
    (down, up), (their_down, their_up) = (_unseen(share, critical) for share in (mine, theirs))
    low = value - math.hypot(critical * error, down, their_up)
    high = value + math.hypot(critical * error, up, their_down)
    return replace(mine, value=value, low=max(-1.0, low), high=min(1.0, high))


def _unseen(share: Estimate, critical: float) -> tuple[float, float]:
    """How far a share of 0 or 1 may lie below and above what it is in every draw; nothing for others."""
    if 0 < share.value < 1:
        return 0.0, 0.0
    rate = wilson(round(share.value * share.prompts), share.prompts, 2 * norm.cdf(critical) - 1)
    return share.value - rate.low, rate.high - share.value
