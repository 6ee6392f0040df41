"""Signals around the onset of loops, beside runs of the same cell that never loop, at the same token."""

from __future__ import annotations

import numpy as np
import pandas as pd

from kvhelpers.bootstrap import intervals

BEFORE, AFTER = 64, 32


def align(runs: pd.DataFrame, signal: np.ndarray, before: int = BEFORE, after: int = AFTER) -> pd.DataFrame:
    """Mean of a signal at each distance from the onset, in looping runs and in their controls.

    A looping run whose token ``onset + offset`` exists is compared with the mean, at that same token, of the runs of its cell
    that never loop and are still going; it is left out at offsets where there is none.

    Parameters
    ----------
    runs : from `runs.runs_table`.
    signal : ``[runs, tokens]``, from `runs.signal_arrays`.

    Returns
    -------
    One row per offset from -before to after that has a run: ``offset``, ``looping``, ``control``, ``difference``, each with
    ``_low`` and ``_high`` (95 %, bootstrap over prompts, NaN where there is none), ``n`` looping runs and their ``prompts``.
    """
    loops = np.flatnonzero(runs["onset"].notna())
    offsets = np.arange(-before, after + 1)
    if not len(loops) or not signal.shape[1]:
        return pd.DataFrame()
    at = runs["onset"].to_numpy(float, na_value=np.nan)[loops].astype(int)[:, None] + offsets  # [loops, offsets]
    inside = (at >= 0) & (at < signal.shape[1])
    at = np.where(inside, at, 0)
    own = np.where(inside, signal[loops[:, None], at], np.nan)
    controls = _controls(runs)
    cells = pd.factorize(runs["cell"])[0]
    seen = [(np.isfinite(signal[rows]), np.nan_to_num(signal[rows])) for rows in controls]

    def control_means(weights: np.ndarray) -> np.ndarray:
        """Mean of the controls at each looping run's tokens, ``[draws, loops, offsets]``."""
        means = [
            weights[:, rows] @ values / (weights[:, rows] @ there) for rows, (there, values) in zip(controls, seen, strict=True)
        ]
        return np.stack([means[cells[loop]][:, tokens] for loop, tokens in zip(loops, at, strict=True)], axis=1)

    with np.errstate(divide="ignore", invalid="ignore"):
        paired = np.isfinite(own) & np.isfinite(control_means(np.ones((1, len(runs))))[0])

    def statistic(weights: np.ndarray) -> np.ndarray:
        control = control_means(weights)
        used = paired & np.isfinite(control)
        share = weights[:, loops, None] * used
        total = share.sum(1)
        looping = (share * np.nan_to_num(own)).sum(1) / total
        control = (share * np.nan_to_num(control)).sum(1) / total
        return np.concatenate([looping, control, looping - control], axis=1)

    value, low, high = (part.reshape(3, -1) for part in intervals(statistic, runs["prompt"]))
    table = pd.DataFrame({"offset": offsets})
    for name, *columns in zip(("looping", "control", "difference"), value, low, high, strict=True):
        table[name], table[f"{name}_low"], table[f"{name}_high"] = columns
    prompts = runs["prompt"].to_numpy()[loops]
    table["n"] = paired.sum(0)
    table["prompts"] = [len(set(prompts[column])) for column in paired.T]
    return table[table["n"] > 0].reset_index(drop=True)


def _controls(runs: pd.DataFrame) -> list[np.ndarray]:
    """Runs that never loop and did not fail, by cell, in the order of the cells' first runs."""
    usable = (~runs["looping"] & ~runs["failed"]).to_numpy()
    codes, names = pd.factorize(runs["cell"])
    return [np.flatnonzero((codes == code) & usable) for code in range(len(names))]
