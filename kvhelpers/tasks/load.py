"""The tasks by name: choose their problems, and say which data these are."""

from __future__ import annotations

from collections.abc import Callable

from kvhelpers.errors import InputError, unknown_name
from kvhelpers.tasks.gsm8k import gsm8k_fingerprint, gsm8k_problems
from kvhelpers.tasks.onestep import onestep_problems
from kvhelpers.tasks.prompts import Problem

TASKS: dict[str, Callable[..., tuple[list[Problem], list[Problem]]]] = {
    "onestep": onestep_problems,
    "gsm8k": gsm8k_problems,
}
OWN_TASKS = ("onestep",)  # whose texts are generated here


def load_problems(
    task: str,
    n_prompts: int,
    n_fewshot: int,
    seed: int,
    data_file: str | None = None,
    examples_seed: int | None = None,
) -> tuple[list[Problem], list[Problem]]:
    """Choose ``n_prompts`` problems and ``n_fewshot`` worked examples, disjoint, by seed.

    Parameters
    ----------
    task : ``onestep`` (generated here) or ``gsm8k`` (Cobbe et al. 2021, https://arxiv.org/abs/2110.14168).
    data_file : for gsm8k, a local JSONL with ``question`` and ``answer``, its path as seen from the
        repository or from here; examples then come from it too. None loads ``openai/gsm8k`` by `datasets`,
        problems from its test split and examples from its train split.
    examples_seed : draws other examples for the same problems; None: those of ``seed``.

    Raises
    ------
    InputError : unknown task, unreadable file, a row without question or answer, fewer rows than asked for.
    """
    if task not in TASKS:
        raise unknown_name("task", task, TASKS)
    if n_prompts < 1 or n_fewshot < 0:
        raise InputError(f"n_prompts {n_prompts} must be at least 1 and n_fewshot {n_fewshot} at least 0")
    if task != "gsm8k" and data_file:
        raise InputError(f"data_file {data_file!r} is only for task 'gsm8k', not for {task!r}")
    return TASKS[task](n_prompts, n_fewshot, seed, data_file, examples_seed)


def data_fingerprint(task: str, data_file: str | None) -> str:
    """What identifies a task's data: a local file's SHA-256, the data set's name, or ``generated``.

    Raises
    ------
    InputError : the file cannot be read.
    """
    return "generated" if task in OWN_TASKS else gsm8k_fingerprint(data_file)
