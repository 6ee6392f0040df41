"""GSM8K: grade-school word problems (Cobbe et al. 2021, https://arxiv.org/abs/2110.14168), from the hub or a
file.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from pathlib import Path

from kvhelpers.errors import InputError
from kvhelpers.paths import REPOSITORY, user_path
from kvhelpers.tasks.answers import STRICT, clean
from kvhelpers.tasks.prompts import ASKED, Problem

HUB = ("openai/gsm8k", "main")


def gsm8k_problems(
    n_prompts: int, n_fewshot: int, seed: int, data_file: str | None
) -> tuple[list[Problem], list[Problem]]:
    """Choose problems and worked examples by seed; see `load.load_problems`.

    Raises
    ------
    InputError : the hub or the file cannot be read, a row has no question or answer, fewer rows than asked
        for.
    """
    if data_file:
        chosen = _sample(_file_rows(data_file), n_fewshot + n_prompts, seed, data_file)
        return chosen[n_fewshot:], chosen[:n_fewshot]
    return (
        _sample(_hub_rows("test"), n_prompts, seed, HUB[0]),
        _sample(_hub_rows("train"), n_fewshot, seed, HUB[0]),
    )


def gsm8k_fingerprint(data_file: str | None) -> str:
    """What identifies the data: the local file's SHA-256, or the data set's name."""
    return f"sha256:{hashlib.sha256(_read(data_file)).hexdigest()}" if data_file else f"hub:{HUB[0]}"


def _sample(rows: list[Problem], n: int, seed: int, where: str) -> list[Problem]:
    if n > len(rows):
        raise InputError(f"n_prompts and n_fewshot ask for {n} rows, but {where} has {len(rows)}")
    return random.Random(seed).sample(rows, n)


def _hub_rows(split: str) -> list[Problem]:
    from datasets import load_dataset

    try:
        rows = load_dataset(*HUB, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"task 'gsm8k' cannot load {HUB[0]}: {reason}; or name a local JSONL as data_file"
        ) from error
    return [_problem(f"gsm8k/{split}/{index}", row) for index, row in enumerate(rows)]


def _file_rows(data_file: str) -> list[Problem]:
    rows = []
    for number, line in enumerate(_read(data_file).split(b"\n")):
        if line.strip():
            try:
                row = json.loads(line)
                rows.append(_problem(f"{Path(data_file).name}/{number}", row))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise InputError(
                    f"data_file {data_file!r} line {number + 1} is no JSON object "
                    f"with 'question' and 'answer': {error}"
                ) from error
    return rows


def _problem(row_id: str, row: Mapping[str, str]) -> Problem:
    answer = row["answer"].strip()
    number = STRICT.search(answer)
    if number is None:
        raise ValueError("its answer has no '#### number'")
    question = row["question"].strip()
    return Problem(row_id, question, answer, clean(number.group(1)), ASKED.format(question))


def _read(data_file: str) -> bytes:
    path = user_path("data_file", data_file)
    try:
        return (REPOSITORY / path if (REPOSITORY / path).exists() else path).read_bytes()
    except OSError as error:
        raise InputError(f"data_file {data_file!r} cannot be read: {error.strerror}") from error
