"""Does a signal cross a threshold before the loop begins, how early, and how often in runs where nothing goes wrong?

The threshold is a quantile of the tokens of *uncompressed* runs, so nothing about failures was used to choose it. Crossings
count from new token 1: token 0 comes from full attention. A loop with its onset at token 0 or 1 has no token that could
warn of it and is counted apart.

How many looping runs cross before their onset says little by itself, since a long enough run crosses sometime. Each looping
run is therefore compared with the runs of its cell that at its onset are still going and have not begun to loop (incidence
density sampling: Miettinen 1976, https://doi.org/10.1093/oxfordjournals.aje.a112220): which share of them has crossed by then?
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from kvhelpers.bootstrap import Estimate, estimate, mean, proportion
from kvhelpers.presses import NONE

FIRST_TOKEN = 1  # the first that sees the compressed cache
QUANTILE = 0.99
HIGH, LOW = "high", "low"


@dataclass(frozen=True)
class Warnings:
    """What the crossings of one threshold are worth.

    caught : share of looping runs that cross before their onset; ``lead`` is onset minus first crossing, in tokens, of those.
    matched : the same share among looping runs that have comparable runs, ``by_chance`` the share of these that have crossed
        by the same token, ``excess`` the difference; None where no looping run has a comparable one.
    false_alarms : share of healthy runs that cross; ``alarms_per_run`` their mean number of separate crossings. Healthy runs
        end with the right answer; they are compressed ones where there are any, so that the threshold has not seen them.
    """

    direction: str
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


def warnings(runs: pd.DataFrame, signal: np.ndarray, direction: str, quantile: float = QUANTILE) -> Warnings | None:
    """Judge a threshold on a signal; None if there is no uncompressed token to set it on.

    Parameters
    ----------
    runs : from `runs.runs_table`.
    signal : ``[runs, tokens]``, from `runs.signal_arrays`.
    direction : ``high``: above the quantile; ``low``: below one minus the quantile.
    quantile : of the tokens of the uncompressed runs.
    """
    signal = signal[:, FIRST_TOKEN:]
    bare = signal[(runs["press"] == NONE).to_numpy()]
    bare = bare[np.isfinite(bare)]
    if not len(bare):
        return None
    threshold = float(np.quantile(bare, quantile if direction == HIGH else 1 - quantile))
    crossed = signal > threshold if direction == HIGH else signal < threshold
    prompts = runs["prompt"].to_numpy()
    first = np.where(crossed.any(1), crossed.argmax(1) + FIRST_TOKEN, np.iinfo(np.int64).max)
    onset = runs["onset"].to_numpy(float, na_value=np.inf)
    loops = np.flatnonzero(np.isfinite(onset) & (onset > FIRST_TOKEN))
    before = first[loops] < onset[loops]
    healthy = (~runs["catastrophic"] & ~runs["failed"]).to_numpy()
    compressed = healthy & (runs["press"] != NONE).to_numpy()
    judged = compressed if compressed.any() else healthy
    starts = crossed[judged] & ~np.pad(crossed[judged], ((0, 0), (1, 0)))[:, :-1]
    matched, by_chance, excess = _matched(runs, first, onset, loops)
    return Warnings(
        direction,
        threshold,
        quantile,
        len(bare),
        len(loops),
        int((onset <= FIRST_TOKEN).sum()),
        proportion(before, prompts[loops]),
        (onset[loops] - first[loops])[before].astype(int),
        matched,
        by_chance,
        excess,
        proportion(crossed[judged].any(1), prompts[judged]),
        estimate(mean(starts.sum(1)), prompts[judged]),
        bool(compressed.any()),
    )


def _matched(
    runs: pd.DataFrame, first: np.ndarray, onset: np.ndarray, loops: np.ndarray
) -> tuple[Estimate | None, Estimate | None, Estimate | None]:
    """Looping runs against the runs of their cell that are at risk at their onset."""
    cells, prompts, tokens = pd.factorize(runs["cell"])[0], runs["prompt"].to_numpy(), runs["tokens"].to_numpy()
    at = onset[loops][:, None]
    at_risk = (cells == cells[loops][:, None]) & (tokens > at) & (onset > at) & ~runs["failed"].to_numpy()  # [loops, runs]
    usable = at_risk.any(1)
    loops, at, at_risk = loops[usable], at[usable], at_risk[usable].astype(float)
    early = at_risk * (first < at)
    before = first[loops] < onset[loops]

    def shares(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        others = weights @ at_risk.T
        share = weights[:, loops] * (others > 0)
        total = share.sum(1)
        return share @ before / total, (share * np.nan_to_num(weights @ early.T / others)).sum(1) / total

    def told(choose) -> Estimate | None:
        found = estimate(lambda weights: choose(*shares(weights)), prompts) if len(loops) else None
        return found and Estimate(found.value, found.low, found.high, len(loops), len(set(prompts[loops])))

    return told(lambda own, other: own), told(lambda own, other: other), told(lambda own, other: own - other)
