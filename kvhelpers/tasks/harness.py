"""``lm_eval:<name>``: tasks of lm-evaluation-harness, which makes their prompts and marks their answers.

Here is what can be said of them without it. Their conditions are run by `kvhelpers.lm_eval`, and hold in
``task_kwargs`` what the harness asked: ``requests``, the SHA-256 of all prompts and right answers, and
``until``, the texts that end an answer, and ``marking``, the SHA-256 of how it marks them, which older
results lack.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

from kvhelpers.errors import InputError, shown
from kvhelpers.tasks.answers import clean, is_number

PREFIX = "lm_eval:"
REQUESTS, UNTIL, MARKING = "requests", "until", "marking"
FULL = 1.0  # what the harness gives an answer that is right


def check_harness_task(task: str, kwargs: Mapping[str, Any]) -> None:
    """Raise InputError unless it is `kvhelpers.lm_eval` that asks."""
    until = kwargs.get(UNTIL)
    if REQUESTS not in kwargs or not isinstance(until, list) or not all(map(_is_text, until)):
        name = task.removeprefix(PREFIX)
        raise InputError(
            f"task {shown(task)} is one of lm-evaluation-harness, which makes its prompts; run it by "
            f"python -m kvhelpers lm-eval --tasks {name}"
        )


def harness_fingerprint() -> str:
    """The version that makes the prompts. Raises InputError where the harness is not installed."""
    try:
        return f"lm-evaluation-harness {importlib.metadata.version('lm-eval')}"
    except importlib.metadata.PackageNotFoundError as error:
        raise needs_harness() from error


def needs_harness() -> InputError:
    """Build the error for a harness that is not installed."""
    return InputError(
        "tasks of lm-evaluation-harness need it; install it with pip install 'kvhelpers[lm-eval]'"
    )


def harness_reference(target: object) -> str:
    """The right answer of a document: the number of a worked solution that ends in ``#### number``, a target
    that is a number, or its text.
    """
    text = str(target).strip()
    number = clean(text.rpartition("####")[2].strip())
    return number if is_number(number) else text


def has_full_marks(marks: Mapping[str, float]) -> bool:
    """Whether one of the task's filters gives an answer exactly 1 by the task's first metric; ``marks`` are
    by ``metric,filter``, as the harness calls them. Metrics on another scale, such as BLEU from 0 to 100,
    call no answer right.
    """
    first = next(iter(marks)).partition(",")[0]
    return any(mark == FULL for name, mark in marks.items() if name.partition(",")[0] == first)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""
