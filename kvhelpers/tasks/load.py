"""The tasks by name: choose their problems, say which data these are, and how their answers are checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from kvhelpers import own
from kvhelpers.errors import InputError, unknown_name
from kvhelpers.tasks.answers import is_number
from kvhelpers.tasks.gsm8k import gsm8k_fingerprint, gsm8k_problems
from kvhelpers.tasks.harness import PREFIX as HARNESS
from kvhelpers.tasks.harness import UNTIL, check_harness_task, harness_fingerprint, has_full_marks
from kvhelpers.tasks.onestep import onestep_problems
from kvhelpers.tasks.own_task import own_problems, own_verifier
from kvhelpers.tasks.prompts import STOP_STRINGS, Problem
from kvhelpers.tasks.reasoning_gym import (
    PREFIX,
    is_right_by_its_verifier,
    reasoning_gym_fingerprint,
    reasoning_gym_problems,
)

TASKS = ("onestep", "gsm8k", f"{PREFIX}<name>", "my_task.py:<name>")


def is_own(task: str) -> bool:
    """Whether a task is code of one's own (`own_task`)."""
    return own.is_own(task) and not task.startswith((PREFIX, HARNESS))


def check_task(task: str, data_file: str | None, task_kwargs: Mapping[str, Any]) -> None:
    """Raise InputError for an unknown task, or for a data file or kwargs that it does not take."""
    is_gym, is_harness = task.startswith(PREFIX), task.startswith(HARNESS)
    if is_own(task):
        own.with_hash("task", task)
    elif is_harness:
        check_harness_task(task, task_kwargs)
    elif not is_gym and task not in TASKS:
        raise unknown_name("task", task, TASKS)
    if task != "gsm8k" and data_file:
        raise InputError(f"data_file {data_file!r} is only for task 'gsm8k', not for {task!r}")
    if not (is_gym or is_harness or is_own(task)) and task_kwargs:
        raise InputError(
            f"task_kwargs {dict(task_kwargs)} are only for tasks '{PREFIX}…' and your own, not for {task!r}"
        )


def check_data(
    data_file: str | None, examples_file: str | None, shuffle: bool, examples_seed: int | None
) -> None:
    """Raise InputError for an order or examples of a file where there is no data file, and for a draw of
    examples that are not drawn.
    """
    if examples_file is not None and examples_seed is not None:
        raise InputError(
            f"examples_seed {examples_seed} is not allowed with examples_file, whose first rows are the "
            "worked examples; leave one of them out"
        )
    for name, given in (("examples_file", examples_file), ("shuffle", None if shuffle else shuffle)):
        if given is not None and not data_file:
            raise InputError(
                f"{name} {given!r} needs a data_file, from which the problems come, and task 'gsm8k'"
            )


def load_problems(
    task: str,
    n_prompts: int,
    n_fewshot: int,
    seed: int,
    data_file: str | None = None,
    examples_seed: int | None = None,
    task_kwargs: Mapping[str, Any] | None = None,
    examples_file: str | None = None,
    shuffle: bool = True,
) -> tuple[list[Problem], list[Problem]]:
    """Choose ``n_prompts`` problems and ``n_fewshot`` worked examples, disjoint, by seed.

    Parameters
    ----------
    task : ``onestep`` (generated here), ``gsm8k`` (Cobbe et al. 2021, https://arxiv.org/abs/2110.14168), or
        ``reasoning_gym:<name>`` (`tasks.reasoning_gym`).
    data_file : for gsm8k, a local JSONL with ``question`` and ``answer``, its path as seen from the
        repository or from here; examples then come from it too. None loads ``openai/gsm8k`` by `datasets`,
        problems from its test split and examples from its train split.
    examples_seed : draws other examples for the same problems; None: those of ``seed``.
    task_kwargs : settings of a data set of reasoning-gym.
    examples_file : a JSONL of the same form, whose first rows are the worked examples.
    shuffle : False takes the data file's first rows as problems, in their order, and the next ones as
        examples.

    Raises
    ------
    InputError : unknown task, unreadable file, a row without question or answer, fewer rows than asked for;
        a task of lm-evaluation-harness, which makes its prompts itself.
    """
    check_task(task, data_file, task_kwargs or {})
    if task.startswith(HARNESS):
        raise InputError(f"the prompts of task {task!r} are in lm-evaluation-harness only, not here")
    if n_prompts < 1 or n_fewshot < 0:
        raise InputError(f"n_prompts {n_prompts} must be at least 1 and n_fewshot {n_fewshot} at least 0")
    if is_own(task):
        return own_problems(task, n_prompts, n_fewshot, seed, examples_seed, task_kwargs or {})
    if task == "onestep":
        return onestep_problems(n_prompts, n_fewshot, seed, examples_seed)
    if task == "gsm8k":
        return gsm8k_problems(n_prompts, n_fewshot, seed, data_file, examples_seed, examples_file, shuffle)
    return reasoning_gym_problems(task, n_prompts, n_fewshot, seed, examples_seed, task_kwargs or {})


def data_fingerprint(task: str, data_file: str | None) -> str:
    """What identifies a task's data: a local file's SHA-256, the data set's name, the version of what
    generates it, or ``generated``.

    Raises
    ------
    InputError : the file cannot be read.
    """
    if task == "gsm8k":
        return gsm8k_fingerprint(data_file)
    if task.startswith(HARNESS):
        return harness_fingerprint()
    return "generated" if task == "onestep" or is_own(task) else reasoning_gym_fingerprint()


def texts_may_be_shared(task: str) -> bool:
    """Whether a task's questions are generated, so that results may carry them."""
    return task != "gsm8k" and not task.startswith(HARNESS) and not is_own(task)


def stop_strings(task: str, task_kwargs: Mapping[str, Any]) -> tuple[str, ...]:
    """The texts of which the first ends an answer."""
    return tuple(task_kwargs[UNTIL]) if task.startswith(HARNESS) else STOP_STRINGS


def verifier(
    task: str,
    task_kwargs: Mapping[str, Any],
    prompt_id: str,
    reference: str,
    marks: Mapping[str, float] | None = None,
) -> Callable[[str | None], bool] | None:
    """What checks an answer to a problem, or that there is none, where that takes more than to equal the
    right one: of tasks of lm-evaluation-harness its ``marks``, whatever was extracted, if it gave any; and of
    reasoning-gym the data set's own verifier, for answers that are no numbers.
    """
    if task.startswith(HARNESS) and marks:
        return lambda _: has_full_marks(marks)
    if is_own(task):
        return own_verifier(task, reference)
    if is_number(reference) or not task.startswith(PREFIX):
        return None
    return partial(is_right_by_its_verifier, task, task_kwargs, prompt_id)
