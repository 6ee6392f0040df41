"""An experiment's runs as a tidy table and its signals as arrays, for every analysis of more than one run.

Columns of the table, one row per prompt and condition:

================  ========================================================================================
condition, press  the condition's label and press
valid             False where a flag takes away the meaning of the condition's runs; a weak baseline does not
removed           measured share of the prompt's cache that was removed; missing if the prefill failed
prompt            the prompt's id; the same prompt has the same id in every condition
tokens            new tokens
ended             ended by itself, with an end token or a stop string
errored           stopped by an error that is not the model's doing
correct, looping, non_termination, wrong_answer, catastrophic    outcomes, see `scoring.failures`
onset             new token at which the loop starts, of looping runs; else missing
mode              the failure mode, see `scoring.failure_modes`
thinking_tokens, answering_tokens    new tokens up to the end of a thinking model's thoughts, and behind it;
                  only where there are runs of a model that thinks
================  ========================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from kvhelpers.errors import InputError
from kvhelpers.experiment.results import ConditionResult
from kvhelpers.paths import relative
from kvhelpers.records import Record, StopReason
from kvhelpers.scoring.failure_modes import failure_mode
from kvhelpers.scoring.summary import most_interesting
from kvhelpers.stats import Estimate, estimate, mean

OUTCOMES = ("looping", "non_termination", "wrong_answer", "catastrophic")
THINKING = ["thinking_tokens", "answering_tokens"]


def runs_table(results: Sequence[ConditionResult]) -> pd.DataFrame:
    """One row per run, in the order of the conditions and prompts."""
    rows = [_row(result, record) for result in results for record in result.records]
    table = pd.DataFrame(rows).astype(dict.fromkeys(("onset", *THINKING), "Int64"))
    return table.drop(columns=THINKING) if table[THINKING].isna().all(axis=None) else table


def _row(result: ConditionResult, record: Record) -> dict:
    return {
        "condition": result.label,
        "press": result.condition.press,
        "valid": not result.is_invalid,
        "removed": record.removed,
        "prompt": record.prompt_id,
        "tokens": record.n_tokens,
        "ended": record.stop_reason.ended,
        "errored": record.stop_reason == StopReason.ERROR,
        "correct": record.correct,
        **{name: getattr(record.failures, name) for name in OUTCOMES},
        "onset": record.onset,
        "mode": str(failure_mode(record, result.examples)),
        **dict(zip(THINKING, _thinking(record), strict=True)),
    }


def _thinking(record: Record) -> tuple[int | None, int | None]:
    thinking = record.thinking_tokens
    return thinking, None if thinking is None else record.n_tokens - thinking


def signal_arrays(results: Sequence[ConditionResult], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Signals ``[runs, longest run]`` by name, rows as in `runs_table`, NaN after a run's end; at least one
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
    signals = result.signals(["prompt_index", *names])
    by_prompt = dict(tuple(signals.groupby("prompt_index")))
    for record in result.records[:first]:
        tokens = by_prompt.get(record.prompt_index, signals[:0])
        if len(tokens) != record.n_tokens:
            raise InputError(
                f"signals file {relative(result.signals_path)} has {len(tokens)} tokens of prompt "
                f"{record.prompt_id}, its results say {record.n_tokens}; delete both and run the condition "
                "again"
            )
        yield record, tokens


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
