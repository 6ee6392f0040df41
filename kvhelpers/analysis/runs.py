"""Signals of an experiment's runs as arrays, and the runs to look at; runs as a table: `frames.runs`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from kvhelpers import frames
from kvhelpers.experiment.results import ConditionResult
from kvhelpers.records import Record
from kvhelpers.scoring.summary import most_interesting
from kvhelpers.stats import Estimate, estimate, mean


def signal_arrays(results: Sequence[ConditionResult], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Signals ``[runs, longest run]`` by name, rows as in `frames.runs`, NaN after a run's end; at least one
    column.

    Raises
    ------
    InputError : a signals file that cannot be read, lacks a column, or does not fit its results.
    """
    longest = max([1, *(record.n_tokens for result in results for record in result.records)])
    rows: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for _, tokens in (run for result in results for run in run_signals(result, names)):
        for name in names:
            row = np.full(longest, np.nan)
            row[: len(tokens)] = tokens[name]
            rows[name].append(row)
    return {name: np.array(values).reshape(len(values), longest) for name, values in rows.items()}


def run_signals(
    result: ConditionResult, names: Sequence[str], first: int | None = None
) -> Iterator[tuple[Record, pd.DataFrame]]:
    """Each record of a condition (or of its ``first`` ones) with the run's signals, a row per token.

    Raises
    ------
    InputError : as `signal_arrays`.
    """
    table = frames.tokens([result], names)
    by_prompt = dict(tuple(table.groupby("prompt_index")))
    for record in result.records[:first]:
        yield record, by_prompt.get(record.prompt_index, table[:0])


def run_tokens(result: ConditionResult, record: Record) -> pd.DataFrame:
    """A run token by token: step, char_end, entropy, top1_prob, and piece, the token's text."""
    tokens = result.signals(["prompt_index", "step", "char_end", "entropy", "top1_prob"])
    tokens = tokens[tokens["prompt_index"] == record.prompt_index].reset_index(drop=True)
    starts = tokens["char_end"].shift(fill_value=0)
    return tokens.assign(piece=[record.text[a:b] for a, b in zip(starts, tokens["char_end"], strict=True)])


def signal_means(result: ConditionResult) -> dict[str, Estimate]:
    """Means over a condition's runs with tokens of the run's mean and largest entropy (nats) and smallest
    top-1 probability, with 95 % intervals by bootstrap over prompts; nothing where no run has a token.
    """
    runs = result.signals(["prompt_index", "entropy", "top1_prob"]).groupby("prompt_index")
    values = {
        "mean entropy": runs["entropy"].mean(),
        "largest entropy": runs["entropy"].max(),
        "smallest top-1 probability": runs["top1_prob"].min(),
    }
    means = {name: estimate(mean(of_run), list(of_run.index)) for name, of_run in values.items()}
    return {name: value for name, value in means.items() if value is not None}


def instructive_run(results: Sequence[ConditionResult]) -> tuple[ConditionResult, Record]:
    """The run to look at: `scoring.summary.most_interesting` among the valid conditions, or among all if none
    is.
    """
    shown = [result for result in results if not result.is_invalid] or results
    runs = [(result, record) for result in shown for record in result.records]
    best = most_interesting([record for _, record in runs])
    return next(run for run in runs if run[1] is best)
