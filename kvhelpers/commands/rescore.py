"""Judge saved answers again, without a model: a changed answer rule or loop detector remakes summaries in
seconds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from kvhelpers.commands.prompts import PromptsAgain
from kvhelpers.errors import InputError
from kvhelpers.experiment.checkpoint import write_json
from kvhelpers.experiment.grid import finished_results
from kvhelpers.experiment.results import PREVIOUS, ConditionResult
from kvhelpers.experiment.run import judged
from kvhelpers.paths import relative
from kvhelpers.records import FailureMode, Record
from kvhelpers.scoring.failure_modes import failure_mode
from kvhelpers.scoring.score import Ended
from kvhelpers.scoring.summary import summarize
from kvhelpers.tasks.prompts import prompt_hash
from kvhelpers.tasks.thinking import think_tags

JUDGED = ("prompt_index", "token_id", "char_end", "entropy", "top1_prob")  # columns that judging needs
ANOTHER_DAY = "2001-12-30"


def rescore(experiment: str) -> tuple[int, int]:
    """Judge all finished runs of an experiment by today's rules, and bring results of the schema before over
    to today's; return how many judgements changed, and of how many.

    Each condition's JSON is replaced as a whole; tokens and signals stay as they are. Runs without the hash
    of their prompt's tokens get it where tokenizer and data are here to make the prompt again.

    Raises
    ------
    InputError : the experiment has no finished condition, or an unreadable one; a result of the schema before
        whose prompts cannot be the same today.
    """
    changed = total = 0
    again = PromptsAgain()
    for result in tqdm(
        finished_results(experiment, previous=True), desc=f"rescore {experiment}", unit="condition"
    ):
        signals = result.signals(JUDGED)
        records = rescored(result, signals)
        total += len(records)
        changed += sum(map(_judged_otherwise, records, result.records))
        tokenizer = again.tokenizer(result)
        if (previous := _is_previous(result.path)) and tokenizer is not None and think_tags(tokenizer):
            raise InputError(
                f"results file {relative(result.path)} cannot be brought over: its model thinks, and its "
                "thoughts were not told from its answers; run the condition again under another name"
            )
        if all(record.prompt_hash is None for record in records):
            records = _with_prompt_hashes(result, records, again)
        summary = summarize(records, signals)
        judged_anew = result.model_copy(update={"records": records, "summary": summary})
        if judged_anew != result or previous:
            write_json(judged_anew)
    return changed, total


def _judged_otherwise(new: Record, old: Record) -> bool:
    parts = [
        (one.correct, one.answer.value, one.failures, one.loop_onset_char, one.mode) for one in (new, old)
    ]
    return parts[0] != parts[1]


def _is_previous(path: Path) -> bool:
    return json.loads(path.read_text(encoding="utf-8"))["schema_version"] == PREVIOUS


def _with_prompt_hashes(
    result: ConditionResult, records: Sequence[Record], again: PromptsAgain
) -> tuple[Record, ...]:
    """The records of prompts whose tokens were not noted, with the hash of what they are today, if they can
    be made again.

    Raises
    ------
    InputError : they have other lengths, or depend on the day, which was not noted.
    """
    prompts = again.of(result)
    if prompts is None:
        return tuple(records)
    hashes = [prompt_hash(prompt.token_ids) for prompt in prompts]
    on_another_day = [prompt_hash(prompt.token_ids) for prompt in again.of(result, ANOTHER_DAY)]
    lengths = [len(prompt.token_ids) for prompt in prompts]
    if hashes != on_another_day or lengths != [record.prompt_tokens for record in records]:
        raise InputError(
            f"results file {relative(result.path)} cannot be brought over: its prompts may have had other "
            "tokens than today, by the model's chat template or the day that it prints; run the condition "
            "again under another experiment name"
        )
    pairs = zip(records, hashes, strict=True)
    return tuple(record.model_copy(update={"prompt_hash": made}) for record, made in pairs)


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
