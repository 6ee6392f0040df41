"""What a run's text and tokens are judged to be: the one place where a record gets its answer and its failures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from kvhelpers.answers import extract_answer
from kvhelpers.failures import find_failures
from kvhelpers.tasks import STOP_STRINGS


def score(
    text: str, token_ids: Sequence[int], char_ends: Sequence[int], stop_reason: str, error: str | None, reference: str
) -> dict[str, Any]:
    """The judged part of a record: ``answer``, ``correct``, ``failures``, ``loop_onset_char``.

    ``char_ends`` are, for each token, the characters of the text up to its end; a run with an error is never correct.
    """
    answer = extract_answer(text, STOP_STRINGS)
    correct = error is None and answer.is_correct(reference)
    failures = find_failures(list(token_ids), stop_reason, correct)
    onset = failures.loop_onset
    return {
        "answer": asdict(answer) | {"value": answer.value},
        "correct": correct,
        "failures": asdict(failures) | {"catastrophic": failures.catastrophic},
        "loop_onset_char": None if onset is None else [0, *map(int, char_ends)][onset],
    }
