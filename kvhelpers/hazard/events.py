"""How a run ends for a predictor: the first of these events (competing, one per run).

loop       the onset of a loop, its first token (`scoring.failures`)
overrun    the answer is there (``#### 18``), but the run goes on for at least 20 tokens; the onset is the
           first token after the answer. This is the rule for non-termination: it does not look at the
           position, as a limit on tokens would
end        the run ended by itself before any onset; right and wrong answers are told apart by
           `RiskSet.ended`
censored   the limit on tokens or time was reached before any of these, or an error stopped the run: what
           would have come is unknown. A loop is known by its third cycle only, so a run that may have begun
           to loop in its last 64 tokens looks the same as one that has not: it counts as seen up to there
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np

from kvhelpers.records import Record
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


def event_of(record: Record, char_ends: np.ndarray) -> tuple[Event, int]:
    """A run's event and its token, from its record and, for each token, the characters of the text up to its
    end. For a censored run it is the first token of which it is not known whether it is an onset.
    """
    onsets = {Event.LOOP: record.onset, Event.OVERRUN: _overrun(record.text, char_ends)}
    first = min(
        ((onset, event) for event, onset in onsets.items() if onset is not None),
        key=lambda pair: pair[0],
        default=None,
    )
    if first is not None:
        return first[1], first[0]
    if record.stop_reason.ended:
        return Event.END, record.n_tokens - 1
    return Event.CENSORED, max(0, record.n_tokens - UNSURE)


def _overrun(text: str, char_ends: np.ndarray) -> int | None:
    answer = STRICT.search(text)
    if answer is None:
        return None
    onset = int(np.searchsorted(char_ends, answer.end())) + 1
    return onset if len(char_ends) - onset >= GOES_ON else None
