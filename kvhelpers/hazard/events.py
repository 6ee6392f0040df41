"""How a run ends for a predictor: the first of these events (competing, one per run).

loop       the onset of a loop, its first token (`scoring.failures`)
overrun    the answer is there (``#### 18``, not in thoughts), but the run goes on for at least 20 tokens;
           the onset is the first token after the answer. This is the rule for non-termination: it does not
           look at the position, as a limit on tokens would
end        the run ended by itself before any onset; right and wrong answers are told apart by
           `RiskSet.ended`
censored   the limit on tokens or time was reached before any of these, or an error stopped the run: what
           would have come is unknown. A loop is known by its third cycle only, so a run that may have begun
           to loop in its last 64 tokens looks the same as one that has not: it counts as seen up to there
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from kvhelpers.records import PeriodicLoop, Record, StopReason, WindowLoop
from kvhelpers.scoring.failures import REPEATS, WINDOW, loop_by
from kvhelpers.tasks.answers import STRICT

GOES_ON = 20  # tokens after the answer
UNSURE = 64  # last tokens of a censored run, in which an onset may not show yet


class Event(StrEnum):
    """What ends a run for a predictor."""

    LOOP = "loop"
    OVERRUN = "overrun"
    END = "end"
    CENSORED = "censored"

    @property
    def is_failure(self) -> bool:
        """Whether the run failed: it looped or overran."""
        return self in (Event.LOOP, Event.OVERRUN)


@dataclass(frozen=True)
class Definition:
    """What counts as a failure, and from which token on.

    A loop is a ``window`` of tokens that occurs ``repeats`` times (`scoring.failures`); its onset is the
    first token of the first occurrence or, with ``second``, of the second one. An overrun goes on for
    ``goes_on`` tokens after the answer. With ``limit_share`` a run that reaches the limit on tokens fails
    instead, from the token on that is this share of the limit.
    """

    window: int = WINDOW
    repeats: int = REPEATS
    goes_on: int = GOES_ON
    second: bool = False
    limit_share: float | None = None


def event_of(record: Record, char_ends: np.ndarray) -> tuple[Event, int]:
    """A run's event and its token, from its record and, for each token, the characters of the text up to its
    end. For a censored run it is the first token of which it is not known whether it is an onset.
    """
    return _first(record, record.onset, _overrun(record, char_ends, GOES_ON), UNSURE)


def event_by(
    definition: Definition, record: Record, token_ids: Sequence[int], char_ends: np.ndarray, limit: int
) -> tuple[Event, int]:
    """The same by another definition, from the run's ``token_ids`` and the ``limit`` on new tokens."""
    loop = loop_by(token_ids, definition.window, definition.repeats)
    onset = None if loop is None else loop.start
    if definition.second and loop is not None:
        onset = _second_occurrence(loop, token_ids, definition.window)
    if definition.limit_share is None:
        overrun = _overrun(record, char_ends, definition.goes_on)
    else:
        at_limit = record.stop_reason == StopReason.MAX_NEW_TOKENS
        overrun = int(definition.limit_share * limit) if at_limit else None
    unsure = max(UNSURE, definition.window * definition.repeats)  # a longer loop takes longer to show
    return _first(record, onset, overrun, unsure)


def _first(record: Record, loop: int | None, overrun: int | None, unsure: int) -> tuple[Event, int]:
    """The first of the events of a run, from the onsets of those it has; ``unsure`` last tokens of a censored
    run may hide one.
    """
    onsets = {Event.LOOP: loop, Event.OVERRUN: overrun}
    first = min(
        ((onset, event) for event, onset in onsets.items() if onset is not None),
        key=lambda pair: pair[0],
        default=None,
    )
    if first is not None:
        return first[1], first[0]
    if record.stop_reason.ended:
        return Event.END, record.n_tokens - 1
    return Event.CENSORED, max(0, record.n_tokens - unsure)


def _second_occurrence(loop: WindowLoop | PeriodicLoop, token_ids: Sequence[int], window: int) -> int:
    """Where what a loop repeats occurs for the second time."""
    if isinstance(loop, PeriodicLoop):
        return loop.start + loop.period
    repeated = list(token_ids[loop.start : loop.start + window])
    later = range(loop.start + 1, len(token_ids) - window + 1)
    return next(start for start in later if list(token_ids[start : start + window]) == repeated)


def _overrun(record: Record, char_ends: np.ndarray, goes_on: int) -> int | None:
    answer = STRICT.search(record.text, record.thinking_chars or 0)
    if answer is None:
        return None
    onset = int(np.searchsorted(char_ends, answer.end())) + 1
    return onset if len(char_ends) - onset >= goes_on else None
