"""Data sets of reasoning-gym by name, ``reasoning_gym:<name>``: generated here, with verifiers of their own.

reasoning-gym (Stojanovski et al. 2025, https://arxiv.org/abs/2505.24760) is an optional extra. Its
``gsm_symbolic`` has worked answers like GSM8K's; a data set without them gets the bare answer as its worked
example. Answers that are numbers are compared as numbers, as everywhere here; others are checked by the data
set's verifier.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping
from typing import Any

from kvhelpers.errors import InputError, shown, unknown_name
from kvhelpers.tasks.prompts import ASKED, Problem

PREFIX = "reasoning_gym:"
SCANNED = 20  # rows looked at for each problem asked for, since small data sets repeat themselves


def reasoning_gym_problems(
    task: str, n_prompts: int, n_fewshot: int, seed: int, examples_seed: int | None, kwargs: Mapping[str, Any]
) -> tuple[list[Problem], list[Problem]]:
    """Problems and worked examples of a data set, all different.

    Raises
    ------
    InputError : reasoning-gym is not installed, it has no such data set or that one takes no such kwargs, or
        too few different problems.
    """
    problems = _distinct(task, n_fewshot + n_prompts, seed, kwargs, set())
    problems, examples = problems[n_fewshot:], problems[:n_fewshot]
    if examples_seed is not None:
        asked = {problem.question for problem in problems}
        examples = _distinct(task, n_fewshot, examples_seed, kwargs, asked)
    return problems, examples


def reasoning_gym_fingerprint() -> str:
    """The version that makes the problems. Raises InputError where reasoning-gym is not installed."""
    _package()
    return f"reasoning-gym {importlib.metadata.version('reasoning-gym')}"


def is_right_by_its_verifier(task: str, kwargs: Mapping[str, Any], prompt_id: str, value: str | None) -> bool:
    """Whether the data set's own verifier gives an answer to one of its problems full marks."""
    if value is None:
        return False
    _, seed, index = prompt_id.rsplit("/", 2)
    rows = _rows(task, int(index) + 1, int(seed), kwargs)
    return rows.score_answer(value, entry=rows[int(index)]) >= 1


def _distinct(task: str, n: int, seed: int, kwargs: Mapping[str, Any], without: set[str]) -> list[Problem]:
    problems: dict[str, Problem] = {}
    for problem in _problems(task, SCANNED * n, seed, kwargs):
        if len(problems) == n:
            break
        if problem.question not in without:
            problems.setdefault(problem.question, problem)
    if len(problems) < n:
        raise InputError(
            f"n_prompts and n_fewshot ask for {n} different problems, but {task} has {len(problems)} in "
            f"{SCANNED * n} rows"
        )
    return list(problems.values())


def _problems(task: str, n: int, seed: int, kwargs: Mapping[str, Any]) -> Iterator[Problem]:
    rows = _rows(task, n, seed, kwargs)
    for index in range(n):
        row, place = rows[index], f"{task}/{seed}/{index}"
        question, answer = row["question"].strip(), str(row["answer"]).strip()
        worked = row["metadata"].get("answer_cot", "")
        solution = worked if worked.endswith(f"#### {answer}") else f"#### {answer}"
        yield Problem(place, place, question, solution, answer, ASKED.format(question))


def _rows(task: str, n: int, seed: int, kwargs: Mapping[str, Any]):
    name, package = task.removeprefix(PREFIX), _package()
    names = package.factory.DATASETS
    if name not in names:
        raise unknown_name("reasoning_gym data set", name, names)
    try:
        return package.create_dataset(name, seed=seed, size=n, **kwargs)
    except (AssertionError, TypeError, ValueError) as error:
        raise InputError(f"task_kwargs {shown(dict(kwargs))} are not allowed for {task}: {error}") from error


def _package():
    try:
        import reasoning_gym
    except ImportError as error:
        raise InputError(
            "tasks 'reasoning_gym:…' need reasoning-gym; install it with pip install 'kvhelpers[reasoning]'"
        ) from error
    return reasoning_gym
