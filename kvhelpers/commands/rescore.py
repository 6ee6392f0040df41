"""Judge saved answers again, without a model: a changed answer rule or loop detector remakes summaries in
seconds.
"""

from __future__ import annotations

import pandas as pd
from tqdm import tqdm

from kvhelpers.errors import InputError
from kvhelpers.experiment.checkpoint import write_json
from kvhelpers.experiment.grid import finished_results
from kvhelpers.experiment.results import ConditionResult
from kvhelpers.experiment.run import judged
from kvhelpers.records import FailureMode, Record
from kvhelpers.scoring.failure_modes import failure_mode
from kvhelpers.scoring.score import Ended
from kvhelpers.scoring.summary import summarize

JUDGED = ("prompt_index", "token_id", "char_end", "entropy", "top1_prob")  # columns that judging needs


def rescore(experiment: str) -> tuple[int, int]:
    """Judge all finished runs of an experiment by today's rules; return how many changed, and of how many.

    Each condition's JSON is replaced as a whole; tokens and signals stay as they are.

    Raises
    ------
    InputError : the experiment has no finished condition, or an unreadable one.
    """
    changed = total = 0
    for result in tqdm(finished_results(experiment), desc=f"rescore {experiment}", unit="condition"):
        signals = result.signals(JUDGED)
        records = rescored(result, signals)
        total += len(records)
        differ = sum(new != old for new, old in zip(records, result.records, strict=True))
        summary = summarize(records, signals)
        if differ or summary != result.summary:
            write_json(result.model_copy(update={"records": records, "summary": summary}))
        changed += differ
    return changed, total


def rescored(result: ConditionResult, signals: pd.DataFrame) -> tuple[Record, ...]:
    """The result's records, judged by today's rules; ``signals`` are its own, with the columns `JUDGED`.

    Raises
    ------
    InputError : a run whose question was left out is wrong now, and only the question tells how.
    """
    by_prompt = dict(tuple(signals.groupby("prompt_index")))
    records = []
    for record in result.records:
        run = by_prompt.get(record.prompt_index, signals[:0])
        ids, ends = run["token_id"].tolist(), run["char_end"].tolist()
        ended = Ended(record.text, ids, ends, record.stop_reason, record.thinking_chars or 0)
        scored = judged(result.condition, record.prompt_id, record.reference, ended, record.marks)
        judged_anew = record.model_copy(update=vars(scored))
        records.append(judged_anew if record.mode is None else _with_mode(judged_anew))
    return tuple(records)


def _with_mode(record: Record) -> Record:
    """A record whose question was left out, with its mode by today's rules."""
    mode = failure_mode(record, ())
    failures, told = record.failures, (FailureMode.AMNESIA, FailureMode.CORRUPTION)
    if failures.wrong_answer and record.stop_reason.ended and not failures.looping and mode not in told:
        raise InputError(
            f"the answer to {record.prompt_id} is wrong by today's rules, and its question was left out, so "
            "that its failure mode cannot be told; rescore the results that it was sampled from"
        )
    return record.model_copy(update={"mode": mode})
