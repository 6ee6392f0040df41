"""GSM8K: grade-school word problems (Cobbe et al. 2021, https://arxiv.org/abs/2110.14168), from the hub or a
file.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path

from kvhelpers.errors import InputError, shown, without_repeats
from kvhelpers.paths import REPOSITORY, user_path
from kvhelpers.tasks.answers import clean
from kvhelpers.tasks.prompts import ASKED, Problem

HUB = ("openai/gsm8k", "main")
# a decimal number, with or without commas between thousands and a full stop at its end
REFERENCE = re.compile(r"-?(?:(?:[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)(?:\.[0-9]*)?|\.[0-9]+)")


def gsm8k_problems(
    n_prompts: int,
    n_fewshot: int,
    seed: int,
    data_file: str | None,
    examples_seed: int | None = None,
    examples_file: str | None = None,
    shuffle: bool = True,
) -> tuple[list[Problem], list[Problem]]:
    """Choose problems and worked examples by seed; see `load.load_problems`.

    Raises
    ------
    InputError : the hub or the file cannot be read, a row has no question or no answer that ends in a number,
        fewer rows than asked for, a question chosen twice.
    """
    if data_file:
        rows = _file_rows(data_file)
        own = n_fewshot if examples_file is None else 0  # examples that come from the data file
        if shuffle:
            chosen = sample(rows, own + n_prompts, seed, data_file)
            problems, examples = chosen[own:], chosen[:own]
        else:
            chosen = _first(rows, n_prompts + own, data_file)
            problems, examples = chosen[:n_prompts], chosen[n_prompts:]
        if examples_file is not None:
            examples = _first(_file_rows(examples_file), n_fewshot, examples_file)
        elif examples_seed is not None:
            rest = [row for row in rows if row not in problems]
            examples = sample(rest, n_fewshot, examples_seed, data_file)
    else:
        problems = _hub_rows("test", n_prompts, seed)
        examples = _hub_rows("train", n_fewshot, seed if examples_seed is None else examples_seed)
    check_distinct([*examples, *problems])
    return problems, examples


def gsm8k_fingerprint(data_file: str | None) -> str:
    """What identifies the data: the local file's SHA-256, or the data set's name."""
    return f"sha256:{hashlib.sha256(_read(data_file)).hexdigest()}" if data_file else f"hub:{HUB[0]}"


def check_distinct(problems: Sequence[Problem]) -> None:
    """Refuse equal questions: a worked example would tell a prompt's answer, and a prompt asked twice would
    count as two. White space makes no difference.
    """
    seen: dict[str, Problem] = {}
    for problem in problems:
        first = seen.setdefault(" ".join(problem.question.split()), problem)
        if first is not problem:
            raise InputError(
                f"{first.place} and {problem.place} ask the same question, and both were chosen; drop one of "
                "them or choose another seed"
            )


def sample(rows: Sequence, n: int, seed: int, where: str) -> list:
    """``n`` rows by seed. Raises InputError where there are fewer."""
    return random.Random(seed).sample(rows, len(_first(rows, n, where)))


def _first(rows: Sequence, n: int, where: str) -> list:
    if n > len(rows):
        raise InputError(f"n_prompts and n_fewshot ask for {n} rows, but {where} has {len(rows)}")
    return list(rows[:n])


def _hub_rows(split: str, n: int, seed: int) -> list[Problem]:
    """``n`` problems of a split of the data set."""
    from datasets import load_dataset

    try:
        rows = load_dataset(*HUB, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"task 'gsm8k' cannot load {HUB[0]}: {reason}; or name a local JSONL as data_file"
        ) from error
    problems = []
    for index in sample(range(len(rows)), n, seed, HUB[0]):
        row, place = rows[index], f"{HUB[0]} {split} row {index}"
        try:
            problems.append(_problem(f"gsm8k/{split}/{index}", place, row["question"], row["answer"]))
        except ValueError as error:
            raise InputError(f"{place} cannot be used: {error}; choose another seed") from error
    return problems


def _file_rows(data_file: str) -> list[Problem]:
    rows = []
    for number, line in enumerate(_read(data_file).split(b"\n")):
        if line.strip():
            place = f"data_file {shown(data_file)} line {number + 1}"
            question, answer = _texts(line, place)
            try:
                rows.append(_problem(f"{Path(data_file).name}/{number}", place, question, answer))
            except ValueError as error:
                raise InputError(f"{place} cannot be used: {error}") from error
    return rows


def _texts(line: bytes, place: str) -> tuple[str, str]:
    """Question and answer of a line of JSON."""
    try:
        row = json.loads(line, object_pairs_hook=without_repeats)
        texts = row["question"], row["answer"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{place} is no JSON object with 'question' and 'answer': {error}") from error
    if not all(isinstance(text, str) for text in texts):
        raise InputError(f"{place} has a 'question' or an 'answer' that is no text")
    return texts


def _problem(row_id: str, place: str, question: str, answer: str) -> Problem:
    """A row's problem. Raises ValueError where it has no question, or no answer that ends in a number."""
    question, answer = question.strip(), answer.strip()
    if not question:
        raise ValueError("its question is empty")
    for text in (question, answer):
        text.encode()  # half a character, which JSON can write, is no text for a tokenizer
    return Problem(row_id, place, question, answer, reference(answer), ASKED.format(question))


def reference(answer: str) -> str:
    """The number after the answer's only ``#### ``, with which it ends; ValueError where there is none."""
    _, *numbers = answer.split("#### ")
    if len(numbers) != 1:
        raise ValueError(f"its answer has {len(numbers) or 'no'} '#### number', where it needs one")
    if not REFERENCE.fullmatch(numbers[0]):
        raise ValueError(f"its answer ends in {shown(numbers[0])}, which is no number like 1,234 or -0.5")
    return clean(numbers[0])


def _read(data_file: str) -> bytes:
    path = user_path("data_file", data_file)
    try:
        return (REPOSITORY / path if (REPOSITORY / path).exists() else path).read_bytes()
    except OSError as error:
        raise InputError(f"data_file {shown(data_file)} cannot be read: {error.strerror}") from error
