"""What went wrong in a run, and from which token on.

Catastrophic failure is any of three: non-termination, looping, wrong answer. In the experiment this project
grew from every loop counts; here one that the run left for the right answer does not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from kvhelpers.records import Failures, PeriodicLoop, StopReason, WindowLoop

WINDOW = 20
REPEATS = 3
STOPPED = (StopReason.MAX_NEW_TOKENS, StopReason.TIMEOUT, StopReason.GUARD)


def find_failures(
    token_ids: Sequence[int], stop_reason: StopReason, right: bool, answer: int | None = None
) -> Failures:
    """Judge one run; ``answer`` is the new token with which the judged answer begins, if it is known.

    non_termination: the limit on tokens (or on time) was reached without end token or stop string, or what
    watched the run stopped it.
    looping: `find_window_loop` finds something, as in the original experiment.
    wrong_answer: the extracted answer is not the reference; a run that broke has no answer.
    loop_left: the run looped and ended by itself, and the right answer begins behind all that is repeated.
    """
    window, periodic = find_window_loop(token_ids), find_periodic_loop(token_ids)
    first = _surest(window, periodic)
    ended_right = window is not None and right and stop_reason.ended
    return Failures(
        non_termination=stop_reason in STOPPED,
        looping=window is not None,
        wrong_answer=not right or stop_reason == StopReason.ERROR,
        loop_onset=first.start if first else None,
        loop_detected=first.detected if first else None,
        window_loop=window,
        periodic_loop=periodic,
        loop_left=ended_right and answer is not None and answer >= _looped_until(token_ids),
    )


def _looped_until(token_ids: Sequence[int]) -> int:
    """Tokens up to the end of the last window that occurs `REPEATS` times, wherever; 0 if there is none."""
    windows = [tuple(token_ids[end - WINDOW : end]) for end in range(WINDOW, len(token_ids) + 1)]
    counts = Counter(windows)
    return max((WINDOW + i for i, window in enumerate(windows) if counts[window] >= REPEATS), default=0)


def loop_by(token_ids: Sequence[int], window: int, repeats: int) -> WindowLoop | PeriodicLoop | None:
    """The loop that a left-to-right reader is sure of first, the periodic one in a tie; None if there is
    none.
    """
    return _surest(
        find_window_loop(token_ids, window, repeats), find_periodic_loop(token_ids, window, repeats)
    )


def _surest(window: WindowLoop | None, periodic: PeriodicLoop | None) -> WindowLoop | PeriodicLoop | None:
    return min((loop for loop in (periodic, window) if loop), key=lambda loop: loop.detected, default=None)


def find_window_loop(
    token_ids: Sequence[int], window: int = WINDOW, repeats: int = REPEATS
) -> WindowLoop | None:
    """First ``window``-token window to occur ``repeats`` times, overlaps counted; None if there is none."""
    starts: dict[tuple[int, ...], list[int]] = {}
    for end in range(window, len(token_ids) + 1):
        seen = starts.setdefault(tuple(token_ids[end - window : end]), [])
        seen.append(end - window)
        if len(seen) == repeats:
            return WindowLoop(start=seen[0], detected=end - 1)
    return None


def find_periodic_loop(
    token_ids: Sequence[int], window: int = WINDOW, repeats: int = REPEATS
) -> PeriodicLoop | None:
    """The contiguous repetition that a left-to-right reader would be sure of first; None if there is none.

    A stretch of period p counts when it holds ``repeats`` cycles and is so long that one ``window``-token
    window occurs ``repeats`` times in it: length >= max(repeats * p, window + (repeats - 1) * p). So each
    periodic loop is also a window loop, and three full stops in a row are neither. Ties go to the smallest
    period.
    """
    tokens = np.asarray(token_ids)
    best = None
    for period in range(1, len(tokens) // repeats + 1):
        needed = max(repeats * period, window + (repeats - 1) * period)
        if best is not None and needed > best.detected:  # later ones are no surer
            break
        differ = tokens[period:] != tokens[:-period]
        if len(differ) - np.count_nonzero(differ) < needed - period:  # too few equalities for such a stretch
            continue
        edges = np.concatenate([[-1], np.flatnonzero(differ), [len(tokens) - period]])
        lengths = np.diff(edges) - 1 + period  # a run of k equalities spans k + period tokens
        for run in np.flatnonzero((lengths >= needed) & (np.diff(edges) > 1))[:1]:
            start = int(edges[run]) + 1
            loop = PeriodicLoop(
                start=start,
                period=period,
                length=int(lengths[run]),
                repeats=float(lengths[run] / period),
                detected=start + needed - 1,
            )
            if best is None or loop.detected < best.detected:
                best = loop
    return best
