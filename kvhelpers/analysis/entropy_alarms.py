"""Does a signal cross a threshold before the loop begins, how early, and how often in runs where nothing goes
wrong?

The threshold is a quantile of the tokens of *uncompressed* runs, so nothing about failures was used to choose
it. Crossings count from new token 1: token 0 comes from full attention. A loop with its onset at token 0 or 1
has no token that could warn of it and is counted apart.

How many looping runs cross before their onset says little by itself, since a long enough run crosses
sometime. Each looping run is therefore compared with the runs of its condition that at its onset are still
going and have not begun to loop (incidence density sampling: Miettinen 1976,
https://doi.org/10.1093/oxfordjournals.aje.a112220): which share of them has crossed by then?
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import pandas as pd

from kvhelpers.presses.registry import NONE
from kvhelpers.records import FIRST_COMPRESSED_TOKEN
from kvhelpers.stats import Estimate, estimate, mean, proportion

QUANTILE = 0.99


class Direction(StrEnum):
    """Whether an alarm is a value above the quantile, or one below one minus the quantile."""

    HIGH = "high"
    LOW = "low"


class AlarmVerdict(StrEnum):
    """Whether alarms come more often before loops than in comparable runs, by the 95 % interval of the
    excess; TOO_FEW: prompts for an interval; NOTHING_TO_COMPARE: no onset has a comparable run.
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
        comparable one.
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
    runs: pd.DataFrame, signal: np.ndarray, direction: Direction, quantile: float = QUANTILE
) -> Alarms | None:
    """Judge a threshold on a signal; None if there is no uncompressed token to set it on.

    Parameters
    ----------
    runs : from `runs.runs_table`.
    signal : ``[runs, tokens]``, from `runs.signal_arrays`.
    direction : above the quantile, or below one minus the quantile.
    quantile : of the tokens of the uncompressed runs.
    """
    signal = signal[:, FIRST_COMPRESSED_TOKEN:]
    uncompressed = signal[(runs["press"] == NONE).to_numpy()]
    uncompressed = uncompressed[np.isfinite(uncompressed)]
    if not len(uncompressed):
        return None
    high = direction == Direction.HIGH
    threshold = float(np.quantile(uncompressed, quantile if high else 1 - quantile))
    crossed = signal > threshold if high else signal < threshold
    prompts = runs["prompt"].to_numpy()
    never = np.iinfo(np.int64).max
    first = np.where(crossed.any(1), crossed.argmax(1) + FIRST_COMPRESSED_TOKEN, never)
    onset = runs["onset"].to_numpy(float, na_value=np.inf)
    loops = np.flatnonzero(np.isfinite(onset) & (onset > FIRST_COMPRESSED_TOKEN))
    before = first[loops] < onset[loops]
    healthy = (~runs["catastrophic"] & ~runs["errored"]).to_numpy()
    compressed = healthy & (runs["press"] != NONE).to_numpy()
    healthy = compressed if compressed.any() else healthy
    starts = crossed[healthy] & ~np.pad(crossed[healthy], ((0, 0), (1, 0)))[:, :-1]
    matched, by_chance, excess = _matched(runs, first, onset, loops)
    return Alarms(
        direction=direction,
        threshold=threshold,
        quantile=quantile,
        threshold_tokens=len(uncompressed),
        loops=len(loops),
        immediate=int((onset <= FIRST_COMPRESSED_TOKEN).sum()),
        caught=proportion(before, prompts[loops]),
        lead=(onset[loops] - first[loops])[before].astype(int),
        matched=matched,
        by_chance=by_chance,
        excess=excess,
        false_alarms=proportion(crossed[healthy].any(1), prompts[healthy]),
        alarms_per_run=estimate(mean(starts.sum(1)), prompts[healthy]),
        healthy_compressed=bool(compressed.any()),
    )


def _matched(
    runs: pd.DataFrame, first: np.ndarray, onset: np.ndarray, loops: np.ndarray
) -> tuple[Estimate | None, Estimate | None, Estimate | None]:
    """Looping runs against the runs of their condition that are at risk at their onset."""
    condition_of = pd.factorize(runs["condition"])[0]
    prompts, tokens = runs["prompt"].to_numpy(), runs["tokens"].to_numpy()
    at = onset[loops][:, None]
    same = condition_of == condition_of[loops][:, None]
    at_risk = same & (tokens > at) & (onset > at) & ~runs["errored"].to_numpy()  # [loops, runs]
    usable = at_risk.any(1)
    loops, at, at_risk = loops[usable], at[usable], at_risk[usable].astype(float)
    if not len(loops):
        return None, None, None
    early = at_risk * (first < at)
    before = first[loops] < onset[loops]

    def of_loops(weights: np.ndarray) -> np.ndarray:
        share = weights[:, loops] * (weights @ at_risk.T > 0)
        return share @ before / share.sum(1)

    def of_others(weights: np.ndarray) -> np.ndarray:
        others = weights @ at_risk.T
        share = weights[:, loops] * (others > 0)
        return (share * np.nan_to_num(weights @ early.T / others)).sum(1) / share.sum(1)

    def excess(weights: np.ndarray) -> np.ndarray:
        return of_loops(weights) - of_others(weights)

    n, n_prompts = len(loops), len(set(prompts[loops]))
    estimates = [estimate(statistic, prompts) for statistic in (of_loops, of_others, excess)]
    return tuple(e and Estimate(e.value, e.low, e.high, n, n_prompts) for e in estimates)
