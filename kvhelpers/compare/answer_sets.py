"""Sets of answers, from wherever they come: a condition of ours, lm-evaluation-harness's sample files, JSONL.

A set's ``answers`` have a row per prompt:

==================================  ========================================================================
id                                  the prompt's id; lm-evaluation-harness's doc_id
text                                the answer
correct, strict                     whether it is right; also to a strict reader. Missing: not known
tokens                              new tokens, if that is known
looping, onset, onset_char          loops by token ids (`scoring.failures`); missing without ids
loop_left                           it left its loop for the right answer
endless, never_left                 it never ended; it never left its thoughts. Missing: not known
errored                             it stopped by an error that is not the model's doing
doc_hash, prompt_hash, target_hash  what tells prompts; columns that are not known are not there
==================================  ========================================================================
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from kvhelpers import frames
from kvhelpers.errors import InputError, shown, unknown_name
from kvhelpers.experiment.grid import finished_results
from kvhelpers.experiment.results import ConditionResult, flags_of, read_result
from kvhelpers.paths import find_results, user_path
from kvhelpers.scoring.failures import find_window_loop, loop_by
from kvhelpers.tasks.harness import FULL, has_full_marks
from kvhelpers.tasks.thinking import KNOWN, is_thinking, opens_thoughts

# parts of about a token each; with `PIECES` of them in a window, loops in text are found as by token ids
PIECE = re.compile(r"\d|[^\W\d_]{1,6}|[^\w\s]|_|\n+")
PIECES = 19
REPEATS = 3
SAMPLES = re.compile(r"samples_(?P<task>.+)_(?P<date>\d{4}-\d\d-\d\dT[\d.-]+)\.jsonl")
STRICT = "strict-match"
PLAIN = ("id", "answer", "prompt", "tokens", "finish_reason", "correct")
FINISHED, CUT = ("stop", "eos", "stop_string"), ("length", "max_new_tokens", "timeout")
OPENING = 200  # characters at a prompt's end in which thoughts may be opened
CONDITION, HARNESS, JSONL = "condition", "harness", "jsonl"
MISSING = {"correct": "boolean", "strict": "boolean", "tokens": "Int64", "looping": "boolean"}
MISSING |= {"onset": "Int64", "onset_char": "Int64", "endless": "boolean", "never_left": "boolean"}


@dataclass(frozen=True)
class AnswerSet:
    """Answers under one setting; ``must`` is what a set to compare it with has to share, ``about`` what may
    differ. ``flags`` names what takes away its meaning, if something does.
    """

    name: str
    kind: str
    answers: pd.DataFrame
    must: dict[str, Any]
    about: dict[str, str]
    notes: tuple[str, ...] = ()
    flags: str = ""


def read_set(where: str) -> AnswerSet:
    """Read ``EXPERIMENT:CONDITION``, a condition's results file, a ``samples_*.jsonl`` or a plain JSONL.

    Raises
    ------
    InputError : there is nothing of that name, or it cannot be read as answers.
    """
    path = user_path("answers", where)
    if path.is_file():
        if path.suffix == ".json":
            return condition_set(read_result(path.absolute()), where)
        rows = _rows(path)
        if "resps" in rows[0]:
            return _harness_set(path, where, rows)
        return _plain_set(where, rows)
    experiment, colon, label = where.partition(":")
    if not colon:
        raise InputError(
            f"answers {shown(where)} are not there (allowed: EXPERIMENT:CONDITION, the .json of a condition, "
            "samples_*.jsonl of lm-evaluation-harness, or JSONL with id and answer)"
        )
    results = {one.label: one for one in finished_results(experiment, find_results(experiment))}
    if label not in results:
        raise unknown_name(f"condition of {experiment!r}", label, results)
    return condition_set(results[label], where)


def condition_set(result: ConditionResult, name: str | None = None) -> AnswerSet:
    """The answers of a finished condition."""
    runs, condition = frames.runs([result]), result.condition
    kept = ["text", "correct", "strict", "tokens", "looping", "onset", "onset_char", "loop_left", "errored"]
    never_left = runs["never_left_thinking"] if "thinking_tokens" in runs else pd.NA
    answers = runs[kept].assign(id=runs["prompt"], endless=runs["non_termination"], never_left=never_left)
    hashes = [record.prompt_hash for record in result.records]
    if None not in hashes:
        answers["prompt_hash"] = hashes
    must = {
        "task": condition.task,
        "task_kwargs": condition.task_kwargs,
        "number of worked examples": condition.n_fewshot,
        "limit on new tokens": condition.max_new_tokens,
        "stop_strings": condition.stop_strings,
        "repetition_penalty": condition.repetition_penalty,
    }
    about = {"model": condition.model, "condition": result.label}
    about |= {"dtype": result.provenance.machine.dtype}
    flags = flags_of(result, None)
    named = ", ".join(f"{flag} in {count} of {result.summary.n}" for flag, count in flags.items())
    notes = (f"{name or result.label} has flags: {named}",) if named else ()
    invalid = named if result.is_invalid else ""
    return AnswerSet(name or result.label, CONDITION, _typed(answers), must, about, notes, invalid)


def _typed(answers: pd.DataFrame) -> pd.DataFrame:
    """The answers with all columns, missing where they are not known."""
    answers = answers.assign(id=answers["id"].astype(str))
    for name, kind in MISSING.items():
        answers[name] = (
            answers[name].astype(kind) if name in answers else pd.array([pd.NA] * len(answers), kind)
        )
    for name in ("loop_left", "errored"):
        answers[name] = answers[name].astype(bool) if name in answers else False
    return answers.reset_index(drop=True)


def _rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # other line ends may stand in a text
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"answers {shown(str(path))} cannot be read ({error})") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"answers {shown(str(path))}: line {number} is no JSON ({error}); the file may be cut short"
            ) from error
        if not isinstance(row, dict):
            raise InputError(f"answers {shown(str(path))}: line {number} is no JSON object")
        rows.append(row)
    if not rows:
        raise InputError(f"answers {shown(str(path))} are empty")
    return rows


def _harness_set(path: Path, name: str, rows: Sequence[dict[str, Any]]) -> AnswerSet:
    """Sample files have a row per document and filter; the marks of all filters count."""
    by_document: dict[str, dict[str, Any]] = {}
    prompts, asked = [], set()
    for number, row in enumerate(rows, 1):
        try:
            one = _sample(row)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise InputError(
                f"answers {shown(name)}: sample {number} is no generated answer with hashes, as "
                f"lm-evaluation-harness writes them ({error!r}); run a task of "
                "output_type generate_until with --log_samples"
            ) from error
        there = by_document.setdefault(one["id"], one | {"marks": {}})
        same = all(there[key] == one[key] for key in ("text", "doc_hash", "prompt_hash", "target_hash"))
        if not same or set(there["marks"]) & set(one["marks"]):
            raise InputError(
                f"answers {shown(name)}: document {one['id']} has two answers; the file is of more than one "
                "task or run"
            )
        if there["marks"] == {}:
            prompts.append(one["prompt"])
        there["marks"] |= one["marks"]
        asked.add(one["asked"])
    answers = pd.DataFrame(by_document.values())
    marks = answers.pop("marks")
    given = set().union(*marks)
    if short := [key for key, one in zip(answers["id"], marks, strict=True) if set(one) != given]:
        raise InputError(
            f"answers {shown(name)}: document {short[0]} lacks marks that others have ({len(short)} such of "
            f"{len(answers)}); the file may be cut short"
        )
    answers["correct"] = [bool(one) and has_full_marks(one) for one in marks]
    strict = [[mark for key, mark in one.items() if key.endswith(f",{STRICT}")] for one in marks]
    if all(strict):
        answers["strict"] = [one[0] == FULL for one in strict]
    answers["never_left"] = _never_left(answers["text"], prompts)
    must, about, notes = _beside(path, name)
    must |= {"generation_kwargs": sorted(asked), "marks": sorted(given)}
    notes += () if any(map(len, marks)) else (f"{name} has no marks: nothing in it counts as right",)
    return AnswerSet(name, HARNESS, _typed(answers.drop(columns=["prompt", "asked"])), must, about, notes)


def _sample(row: dict[str, Any]) -> dict[str, Any]:
    arguments = row["arguments"]
    first = list(next(iter(arguments.values())).values()) if isinstance(arguments, dict) else arguments[0]
    prompt, kwargs = first[0], first[1]
    (texts,) = row["resps"]
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(kwargs, dict) or len(texts) != 1 or not isinstance(texts[0], str):
        raise ValueError("it has not one generated answer")
    marks = {
        f"{metric},{row.get('filter', 'none')}": float(row[metric])
        for metric in row.get("metrics", ("exact_match",))
        if isinstance(row.get(metric), (bool, int, float))
    }
    hashes = {key: str(row[key]) for key in ("doc_hash", "prompt_hash", "target_hash")}
    asked = json.dumps(kwargs, sort_keys=True)
    about = {
        "id": str(row["doc_id"]),
        "text": texts[0],
        "prompt": str(prompt),
        "asked": asked,
        "marks": marks,
    }
    return about | hashes


def _beside(path: Path, name: str) -> tuple[dict[str, Any], dict[str, str], tuple[str, ...]]:
    """What the sample file's name and the ``results_*.json`` beside it say of the run."""
    match = SAMPLES.fullmatch(path.name)
    must = {"task": match["task"]} if match else {}
    results = path.with_name(f"results_{match['date']}.json") if match else None
    if results is None or not results.is_file():
        absent = f"no results_*.json of its run lies beside {name}: the task's version was not compared"
        return must, {}, (absent,)
    try:
        told = json.loads(results.read_text(encoding="utf-8"))
        must |= {"task version": told["versions"].get(match["task"])}
        must |= {"number of worked examples": told["n-shot"].get(match["task"])}
        config = told["config"]
        about = {"model": f"{config.get('model')} ({config.get('model_args')})"}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(
            f"{shown(str(results))} is no results file of lm-evaluation-harness ({error!r})"
        ) from error
    return must, about, ()


def _plain_set(name: str, rows: Sequence[dict[str, Any]]) -> AnswerSet:
    answers = [_plain(name, number, row) for number, row in enumerate(rows, 1)]
    frame = pd.DataFrame(answers)
    if (twice := frame["id"][frame["id"].duplicated()]).size:
        raise InputError(f"answers {shown(name)} have id {shown(twice.iloc[0])} twice")
    for column in ("correct", "tokens", "endless", "looping", "prompt_hash"):
        if 0 < (gaps := int(frame[column].isna().sum())) < len(frame):
            given = {"endless": "finish_reason", "looping": "tokens as ids", "prompt_hash": "prompt"}
            raise InputError(
                f"answers {shown(name)} lack {given.get(column, column)} in {gaps} of {len(frame)} lines; "
                "give it in all lines or in none"
            )
    frame = frame.dropna(axis=1, how="all")
    frame["never_left"] = _never_left(frame["text"])
    return AnswerSet(name, JSONL, _typed(frame), {}, {})


def _plain(name: str, number: int, row: dict[str, Any]) -> dict[str, Any]:
    """A line as a row. What follows of token ids is not kept, but the loop in them."""

    def refuse(key: str, allowed: str) -> InputError:
        value = shown(row[key]) if key in row else "is missing"
        return InputError(f"answers {shown(name)}: line {number}: {key} {value} ({allowed})")

    if not isinstance(row.get("id"), (str, int)) or isinstance(row["id"], bool):
        raise refuse("id", "a text or a whole number")
    if not isinstance(row.get("answer"), str):
        raise refuse("answer", "a text")
    if row.get("correct") not in (None, True, False, 0, 1):
        raise refuse("correct", "true or false")
    tokens, reason = row.get("tokens"), row.get("finish_reason")
    ids = tokens if isinstance(tokens, list) else None
    if not (
        tokens is None or (type(tokens) is int and tokens >= 0) or all(type(i) is int for i in ids or [""])
    ):
        raise refuse("tokens", "how many, or a list of token ids")
    if reason not in (None, *FINISHED, *CUT):
        raise refuse("finish_reason", f"one of {', '.join((*FINISHED, *CUT))}")
    loop = loop_by(ids, 20, REPEATS) if ids and find_window_loop(ids) else None
    return {
        "id": str(row["id"]),
        "text": row["answer"],
        "correct": None if row.get("correct") is None else bool(row["correct"]),
        "tokens": tokens if ids is None else len(ids),
        "endless": None if reason is None else reason in CUT,
        "looping": None if ids is None else loop is not None,
        "onset": loop.start if loop else None,
        "prompt_hash": None if row.get("prompt") is None else json.dumps(row["prompt"]),
    }


def _never_left(texts: Sequence[str], prompts: Sequence[str] | None = None) -> Any:
    """Which answers never left their thoughts; missing where no text has a thinking model's tags. Thoughts
    that some answers close and none opens are open at the beginning of all.
    """
    ends = [prompt[-OPENING:] for prompt in prompts or [""] * len(texts)]
    for tags in KNOWN:
        if any(tag in text for pair in zip(texts, ends, strict=True) for text in pair for tag in tags):
            opened = [opens_thoughts(end, tags) for end in ends]
            unopened = any(tags[1] in text and tags[0] not in text for text in texts)
            before = opened if any(opened) else [unopened] * len(ends)
            return [is_thinking(text, tags, one) for text, one in zip(texts, before, strict=True)]
    return pd.NA


def text_loop(text: str) -> int | None:
    """Characters of a text before its loop, or None if it has none: the rule for tokens (a window that occurs
    three times), on pieces that are about a token each: digits, marks, and words in parts of six letters.

    The size of the window was chosen on half of the committed experiments; on the other half 21 of 6,800
    answers are judged in another way than by their token ids (``benchmarks/text_loops.py``).
    """
    pieces = list(PIECE.finditer(text))
    codes, _ = pd.factorize(pd.Series([piece.group() for piece in pieces], dtype=object))
    if find_window_loop(codes.tolist(), PIECES, REPEATS) is None:
        return None
    return pieces[loop_by(codes.tolist(), PIECES, REPEATS).start].start()
