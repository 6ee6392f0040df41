"""A condition's rates and averages, each with its n."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from kvhelpers.records import Record, StopReason, Summary
from kvhelpers.scoring.flags import worst_flags
from kvhelpers.stats.wilson import wilson
from kvhelpers.tasks.answers import is_right
from kvhelpers.tasks.harness import FULL

RATES: dict[str, Callable[[Record], bool]] = {
    "accuracy": lambda record: record.correct,
    "cfr": lambda record: record.failures.catastrophic,
    "non_termination": lambda record: record.failures.non_termination,
    "looping": lambda record: record.failures.looping,
    "wrong_answer": lambda record: record.failures.wrong_answer,
}

NEVER_LEFT_THINKING = "never_left_thinking"  # of models whose thinking tags are known
# how answers end: right by lm-evaluation-harness's strict-match; by its flexible-extract; by the latter,
# without what strict-match looks for; right, but the run never ended; it looped, and ended all the same; it
# left its loop for the right answer; it never left its thoughts
ENDINGS: dict[str, Callable[[Record], bool]] = {
    "strict": lambda record: _ended_right(record, "strict-match", record.answer.strict),
    "flexible": lambda record: _ended_right(record, "flexible-extract", record.answer.flexible),
    "format_lost": lambda record: (
        _ended_right(record, "flexible-extract", record.answer.flexible) and record.answer.strict is None
    ),
    "right_unended": lambda record: not (record.failures.wrong_answer or record.stop_reason.ended),
    "loop_ended": lambda record: record.failures.looping and record.stop_reason.ended,
    "loop_left": lambda record: record.failures.loop_left,
    NEVER_LEFT_THINKING: lambda record: record.never_left_thinking,
}


def _ended_right(record: Record, rule: str, value: str | None) -> bool:
    """Whether a run ended and is right by a rule of lm-evaluation-harness: by its mark, if it has one."""
    given = [mark for name, mark in (record.marks or {}).items() if name.endswith(f",{rule}")]
    decided = value is not None and value == record.answer.value and not record.marks
    right = not record.failures.wrong_answer if decided else is_right(value, record.reference)
    return record.stop_reason.ended and (given[0] == FULL if given else right)


def most_interesting(records: Sequence[Record]) -> Record:
    """The run to look at: the looping one with most tokens before its onset, else a failed one, else the
    longest.
    """

    def interest(record: Record):
        onset = -1 if record.onset is None else record.onset
        return onset, record.failures.non_termination, record.failures.wrong_answer, record.n_tokens

    return max(records, key=interest)


def summarize(records: Sequence[Record], signals: pd.DataFrame) -> Summary:
    """Summary of a condition.

    Every prompt is in every rate's denominator, whatever happened to it. Signals (columns ``prompt_index``,
    ``entropy``, ``top1_prob``, a row per token) are averaged over tokens within a run and then over the runs
    that have tokens: ``mean_entropy``, ``max_entropy`` (mean over runs of the run's maximum) and
    ``min_top1_prob`` (mean over runs of the run's minimum); None when no run has tokens. ``kept_tokens`` is
    the mean.
    """
    runs = signals.groupby("prompt_index") if len(signals) else None
    caches = [record.cache for record in records if record.cache]
    stops = Counter(record.stop_reason for record in records)
    return Summary(
        n=len(records),
        **{name: wilson(sum(map(rule, records)), len(records)) for name, rule in RATES.items()},
        avg_tokens=float(np.mean([record.n_tokens for record in records])),
        prompt_tokens=float(np.mean([record.prompt_tokens for record in records])),
        kept_tokens=float(np.mean([cache.kept_tokens for cache in caches])) if caches else None,
        cache_bytes=float(np.mean([cache.cache_bytes for cache in caches])) if caches else None,
        mean_entropy=float(runs["entropy"].mean().mean()) if runs else None,
        max_entropy=float(runs["entropy"].max().mean()) if runs else None,
        min_top1_prob=float(runs["top1_prob"].min().mean()) if runs else None,
        stop_reasons={reason: stops[reason] for reason in StopReason if stops[reason]},
        flags=worst_flags([record.flags for record in records]),
    )
