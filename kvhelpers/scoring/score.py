"""What a run's text and tokens are worth: the one place where a record gets its answer and its failures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kvhelpers.records import Answer, Failures, StopReason
from kvhelpers.scoring.failures import find_failures
from kvhelpers.tasks.answers import extract_answer, is_number, is_right
from kvhelpers.tasks.prompts import STOP_STRINGS


@dataclass(frozen=True)
class Ended:
    """What a run left: its text, its tokens, for each token the characters of the text up to its end, and how
    it stopped. The answer stands behind the ``thinking_chars`` first characters, a thinking model's thoughts.
    """

    text: str
    token_ids: Sequence[int]
    char_ends: Sequence[int]
    stop_reason: StopReason
    thinking_chars: int = 0


@dataclass(frozen=True)
class Score:
    """The judged part of a record; the fields are `records.Record`'s."""

    answer: Answer
    correct: bool
    failures: Failures
    loop_onset_char: int | None


def score(
    run: Ended,
    reference: str,
    verify: Callable[[str | None], bool] | None = None,
    stop_strings: Sequence[str] = STOP_STRINGS,
) -> Score:
    """Judge a run against the right answer; ``verify`` says whether an extracted one, or that there is none,
    is right, where that takes more than to be equal. What stands behind the first of the ``stop_strings`` is
    not looked at.

    Only a run that ended by itself is correct: an answer that stands in a text without end is no solved
    problem, though it is not a wrong one either.
    """
    text = run.text[run.thinking_chars :].lstrip() if run.thinking_chars else run.text
    answer = extract_answer(text, stop_strings, is_number(reference))
    if answer.start is not None:
        answer = answer.model_copy(update={"start": answer.start + len(run.text) - len(text)})
    right = is_right(answer.value, reference) if verify is None else verify(answer.value)
    right = right and run.stop_reason != StopReason.ERROR
    begins = None if answer.start is None else int(np.searchsorted(run.char_ends, answer.start, "right"))
    failures = find_failures(list(run.token_ids), run.stop_reason, right, begins)
    onset = failures.loop_onset
    onset_char = None if onset is None else [0, *map(int, run.char_ends)][onset]
    return Score(answer, right and run.stop_reason.ended, failures, onset_char)
