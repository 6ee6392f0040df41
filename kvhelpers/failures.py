"""What went wrong in a run, and from which token on.

Catastrophic failure, as in the experiment this project grew from, is any of three: non-termination, looping, wrong answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvhelpers.generation import ERROR, MAX_NEW_TOKENS, TIMEOUT

WINDOW = 20
REPEATS = 3


@dataclass(frozen=True)
class WindowLoop:
    """A window of 20 tokens that occurs at least 3 times.

    ``start`` is where the window first occurs, ``detected`` the last token of its third occurrence.
    """

    start: int
    detected: int


@dataclass(frozen=True)
class PeriodicLoop:
    """A stretch in which each token equals the one ``period`` tokens before.

    ``start`` is the first token of the first cycle; ``length`` counts tokens, ``repeats`` = length / period;
    ``detected`` is the token at which the stretch is long enough to count.
    """

    start: int
    period: int
    length: int
    repeats: float
    detected: int


@dataclass(frozen=True)
class Failures:
    """The failures of one run. Positions count new tokens from 0; None where there is nothing to point at.

    ``loop_onset`` and ``loop_detected`` are the start and the detection of whichever loop a left-to-right reader is sure of
    first, the periodic one in a tie.
    """

    non_termination: bool
    looping: bool
    wrong_answer: bool
    loop_onset: int | None
    loop_detected: int | None
    window_loop: WindowLoop | None
    periodic_loop: PeriodicLoop | None

    @property
    def catastrophic(self) -> bool:
        """Any of the three."""
        return self.non_termination or self.looping or self.wrong_answer


def find_failures(token_ids: Sequence[int], stop_reason: str, correct: bool) -> Failures:
    """Judge one run.

    non_termination: the budget of tokens (or of time) was used up without end token or stop string.
    looping: `find_window_loop` finds something, as in the original experiment.
    wrong_answer: the extracted answer is not the reference; a run that failed has no answer.
    """
    window, periodic = find_window_loop(token_ids), find_periodic_loop(token_ids)
    first = min((loop for loop in (periodic, window) if loop), key=lambda loop: loop.detected, default=None)
    return Failures(
        non_termination=stop_reason in (MAX_NEW_TOKENS, TIMEOUT),
        looping=window is not None,
        wrong_answer=not correct or stop_reason == ERROR,
        loop_onset=first.start if first else None,
        loop_detected=first.detected if first else None,
        window_loop=window,
        periodic_loop=periodic,
    )


def find_window_loop(token_ids: Sequence[int], window: int = WINDOW, repeats: int = REPEATS) -> WindowLoop | None:
    """First ``window``-token window to occur ``repeats`` times, overlaps counted; None if there is none."""
    starts: dict[tuple[int, ...], list[int]] = {}
    for end in range(window, len(token_ids) + 1):
        seen = starts.setdefault(tuple(token_ids[end - window : end]), [])
        seen.append(end - window)
        if len(seen) == repeats:
            return WindowLoop(start=seen[0], detected=end - 1)
    return None


def find_periodic_loop(token_ids: Sequence[int], window: int = WINDOW, repeats: int = REPEATS) -> PeriodicLoop | None:
    """The contiguous repetition that a left-to-right reader would be sure of first; None if there is none.

    A stretch of period p counts when it holds ``repeats`` cycles and is so long that one ``window``-token window occurs
    ``repeats`` times in it: length >= max(repeats * p, window + (repeats - 1) * p). So each periodic loop is also a
    window loop, and three full stops in a row are neither. Ties go to the smallest period.
    """
    tokens = np.asarray(token_ids)
    best = None
    for period in range(1, len(tokens) // repeats + 1):
        needed = max(repeats * period, window + (repeats - 1) * period)
        equal = np.flatnonzero(tokens[period:] != tokens[:-period])  # breaks of the repetition
        edges = np.concatenate([[-1], equal, [len(tokens) - period]])
        lengths = np.diff(edges) - 1 + period  # a run of k equalities spans k + period tokens
        for run in np.flatnonzero((lengths >= needed) & (np.diff(edges) > 1))[:1]:
            start = int(edges[run]) + 1
            loop = PeriodicLoop(start, period, int(lengths[run]), float(lengths[run] / period), start + needed - 1)
            if best is None or loop.detected < best.detected:
                best = loop
    return best
