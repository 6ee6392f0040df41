"""A task of one's own: a function in a file that returns its problems, ``my_task.py:load`` (`own`).

It returns mappings with ``question`` and ``answer``, a worked solution; ``reference`` is the right answer,
where that is not the number behind the answer's ``####``, and ``id`` names the problem. A function
``judge(answer, reference)`` beside it says whether an extracted answer, which may be None, is right; without
one it is compared as elsewhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from kvhelpers import own
from kvhelpers.errors import InputError, shown
from kvhelpers.tasks.gsm8k import check_distinct, sample
from kvhelpers.tasks.gsm8k import reference as reference_of
from kvhelpers.tasks.prompts import ASKED, Problem


def own_problems(
    task: str,
    n_prompts: int,
    n_fewshot: int,
    seed: int,
    examples_seed: int | None,
    task_kwargs: Mapping[str, Any],
) -> tuple[list[Problem], list[Problem]]:
    """Choose problems and worked examples of a task by seed; ``task_kwargs`` are given to its function.

    Raises
    ------
    InputError : the function fails; what it returns are no problems, or too few; a question chosen twice.
    """
    function = own.load("task", task)
    try:
        rows = list(function(**task_kwargs))
    except Exception as error:  # somebody else's program
        raise InputError(f"task {task!r} fails: {error!r}") from error
    made = [_problem(task, number, row) for number, row in enumerate(rows)]
    chosen = sample(made, n_fewshot + n_prompts, seed, f"task {task!r}")
    problems, examples = chosen[n_fewshot:], chosen[:n_fewshot]
    if examples_seed is not None:
        rest = [row for row in made if row not in problems]
        examples = sample(rest, n_fewshot, examples_seed, f"task {task!r}")
    check_distinct([*examples, *problems])
    return problems, examples


def own_verifier(task: str, reference: str) -> Callable[[str | None], bool] | None:
    """The task's ``judge`` for answers to a problem with this right answer; None where it has none."""
    function = own.load("task", task)
    judge = getattr(sys.modules.get(function.__module__), "judge", None)
    return judge and partial(_judged, judge, task, reference)


def _judged(judge: Callable, task: str, reference: str, answer: str | None) -> bool:
    verdict = judge(answer, reference)
    if not isinstance(verdict, bool):
        raise InputError(
            f"task {task!r}: judge returns {shown(verdict)} for {shown(answer)}; it is True or False"
        )
    return verdict


def _problem(task: str, number: int, row: object) -> Problem:
    place = f"task {own.short(task)} problem {number}"
    texts = [row.get(key) for key in ("question", "answer")] if isinstance(row, Mapping) else [None]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise InputError(f"{place} is {shown(row)}; it is a mapping with the texts 'question' and 'answer'")
    question, answer = (text.strip() for text in texts)
    try:
        right = str(row["reference"]).strip() if "reference" in row else reference_of(answer)
    except ValueError as error:
        raise InputError(f"{place} cannot be used: {error}; or give its 'reference'") from error
    name = str(row.get("id", number))
    return Problem(
        f"{own.short(task).partition('@')[0]}/{name}", place, question, answer, right, ASKED.format(question)
    )
