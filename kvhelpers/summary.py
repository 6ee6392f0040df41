"""A cell's rates and averages, each with its n."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from kvhelpers.generation import STOP_REASONS
from kvhelpers.validity import worst_flags

RATES = {
    "accuracy": lambda record: record["correct"],
    "cfr": lambda record: record["failures"]["catastrophic"],
    "non_termination": lambda record: record["failures"]["non_termination"],
    "looping": lambda record: record["failures"]["looping"],
    "wrong_answer": lambda record: record["failures"]["wrong_answer"],
}


def wilson(count: int, n: int) -> dict[str, float | int]:
    """A rate with its Wilson 95 % interval (Wilson 1927), as ``{count, n, rate, low, high}``."""
    interval = binomtest(count, n).proportion_ci(confidence_level=0.95, method="wilson")
    return {"count": count, "n": n, "rate": count / n, "low": float(interval.low), "high": float(interval.high)}


def most_interesting(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The run to look at: the looping one with most tokens before its onset, else a failed one, else the longest."""

    def interest(record):
        failures = record["failures"]
        onset = failures["loop_onset"] if failures["looping"] else -1
        return onset, failures["non_termination"], failures["wrong_answer"], record["n_tokens"]

    return max(records, key=interest)


def summarize(records: Sequence[dict[str, Any]], signals: pd.DataFrame) -> dict[str, Any]:
    """Summary of a cell.

    Every prompt is in every rate's denominator, whatever happened to it. Signals are averaged over tokens within a run and
    then over the runs that have tokens: ``mean_entropy``, ``max_entropy`` (mean over runs of the run's maximum) and
    ``min_top1_prob`` (mean over runs of the run's minimum); None when no run has tokens. ``kept_tokens`` is the mean.
    """
    runs = signals.groupby("prompt_index") if len(signals) else None
    kept = [r["cache"]["kept_tokens"] for r in records if r["cache"]]
    stops = Counter(record["stop_reason"] for record in records)
    return {
        "n": len(records),
        **{name: wilson(sum(map(rule, records)), len(records)) for name, rule in RATES.items()},
        "avg_tokens": float(np.mean([record["n_tokens"] for record in records])),
        "prompt_tokens": float(np.mean([record["prompt_tokens"] for record in records])),
        "kept_tokens": float(np.mean(kept)) if kept else None,
        "cache_bytes": float(np.mean([r["cache"]["cache_bytes"] for r in records if r["cache"]])) if kept else None,
        "mean_entropy": float(runs["entropy"].mean().mean()) if runs else None,
        "max_entropy": float(runs["entropy"].max().mean()) if runs else None,
        "min_top1_prob": float(runs["top1_prob"].min().mean()) if runs else None,
        "stop_reasons": {reason: stops[reason] for reason in STOP_REASONS if stops[reason]},
        "flags": worst_flags([record["flags"] for record in records]),
    }
