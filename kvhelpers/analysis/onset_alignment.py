"""Signals around the onset of loops, beside runs of the same condition that never loop, at the same token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kvhelpers.records import FIRST_COMPRESSED_TOKEN
from kvhelpers.stats import intervals

BEFORE, AFTER = 64, 32
ENOUGH_RUNS = 5  # looping runs behind a mean that `onset_differences` counts


@dataclass(frozen=True)
class Stretch:
    """How many of ``tokens`` positions have a 95 % interval of the difference above 0 (``higher``) and below
    0 (``lower``); ``fewest`` to ``most`` looping runs stand behind each.
    """

    higher: int
    lower: int
    tokens: int
    fewest: int
    most: int


@dataclass(frozen=True)
class OnsetDifference:
    """Looping runs against their controls, before the onset and from it on; None where too few runs give an
    interval. ``compared`` is False where no looping run has a control.
    """

    signal: str
    compared: bool
    before: Stretch | None
    after: Stretch | None


def align(runs: pd.DataFrame, signal: np.ndarray, before: int = BEFORE, after: int = AFTER) -> pd.DataFrame:
    """Mean of a signal at each distance from the onset, in looping runs and in their controls.

    A looping run whose token ``onset + offset`` exists is compared with the mean, at that same token, of the
    runs of its condition that never loop and are still going; it is left out at offsets where there is none.
    Loops that begin at token 0 or 1 are left out: they have no tokens before the onset that could differ, and
    would stand on one side of it only.

    Parameters
    ----------
    runs : from `frames.runs`.
    signal : ``[runs, tokens]``, from `runs.signal_arrays`.

    Returns
    -------
    One row per offset from -before to after that has a run: ``offset``, ``looping``, ``control``,
    ``difference``, each with ``_low`` and ``_high`` (95 %, bootstrap over prompts, NaN where there is none),
    ``n`` looping runs and their ``prompts``.
    """
    loops = np.flatnonzero((runs["onset"] > FIRST_COMPRESSED_TOKEN).fillna(False))
    offsets = np.arange(-before, after + 1)
    if not len(loops) or not signal.shape[1]:
        return pd.DataFrame()
    onsets = runs["onset"].to_numpy(float, na_value=np.nan)[loops].astype(int)
    at = onsets[:, None] + offsets  # [loops, offsets]
    inside = (at >= 0) & (at < signal.shape[1])
    at = np.where(inside, at, 0)
    of_loops = np.where(inside, signal[loops[:, None], at], np.nan)
    controls = _controls(runs)
    condition_of = pd.factorize(runs["condition"])[0]
    known = [(np.isfinite(signal[rows]), np.nan_to_num(signal[rows])) for rows in controls]

    def control_means(weights: np.ndarray) -> np.ndarray:
        """Mean of the controls at each looping run's tokens, ``[draws, loops, offsets]``."""
        means = [
            weights[:, rows] @ values / (weights[:, rows] @ there)
            for rows, (there, values) in zip(controls, known, strict=True)
        ]
        pairs = zip(loops, at, strict=True)
        return np.stack([means[condition_of[loop]][:, tokens] for loop, tokens in pairs], axis=1)

    with np.errstate(divide="ignore", invalid="ignore"):
        paired = np.isfinite(of_loops) & np.isfinite(control_means(np.ones((1, len(runs))))[0])

    def statistic(weights: np.ndarray) -> np.ndarray:
        control = control_means(weights)
        used = paired & np.isfinite(control)
        share = weights[:, loops, None] * used
        total = share.sum(1)
        looping = (share * np.nan_to_num(of_loops)).sum(1) / total
        control = (share * np.nan_to_num(control)).sum(1) / total
        return np.concatenate([looping, control, looping - control], axis=1)

    prompts = runs["prompt"].to_numpy()
    counts = np.array([len(set(prompts[loops[column]])) for column in paired.T])
    made = intervals(statistic, prompts, counts=np.tile(counts, 3))
    value, low, high = (part.reshape(3, -1) for part in made)
    table = pd.DataFrame({"offset": offsets})
    for name, *columns in zip(("looping", "control", "difference"), value, low, high, strict=True):
        table[name], table[f"{name}_low"], table[f"{name}_high"] = columns
    table["n"] = paired.sum(0)
    table["prompts"] = counts
    return table[table["n"] > 0].reset_index(drop=True)


def _controls(runs: pd.DataFrame) -> list[np.ndarray]:
    """Runs that never loop and did not break, by condition, in the order of the conditions' first runs."""
    usable = (~runs["looping"] & ~runs["errored"]).to_numpy()
    codes, names = pd.factorize(runs["condition"])
    return [np.flatnonzero((codes == code) & usable) for code in range(len(names))]


def onset_differences(aligned: Mapping[str, pd.DataFrame]) -> list[OnsetDifference]:
    """Where looping runs differ from their controls, for each signal; ``aligned`` holds `align`'s tables."""
    differences = []
    for name, table in aligned.items():
        if not len(table):
            differences.append(OnsetDifference(name, False, None, None))
            continue
        early = table["offset"] < 0
        differences.append(OnsetDifference(name, True, _stretch(table[early]), _stretch(table[~early])))
    return differences


def _stretch(table: pd.DataFrame) -> Stretch | None:
    known = table[table["difference_low"].notna() & (table["n"] >= ENOUGH_RUNS)]
    if not len(known):
        return None
    higher, lower = int((known["difference_low"] > 0).sum()), int((known["difference_high"] < 0).sum())
    return Stretch(higher, lower, len(known), int(known["n"].min()), int(known["n"].max()))
