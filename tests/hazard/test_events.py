"""What ends a run for a predictor, by example."""

import numpy as np
import pytest
from factories import make_result

from kvhelpers.hazard.events import UNSURE, Event, event_of

ANSWER = "So it is 4. #### 4 And then Tom has more and more and more"


def a_record(stop="max_new_tokens", onset=None, n_tokens=40, text=ANSWER):
    onsets, entropy = {} if onset is None else {0: onset}, {0: np.ones(n_tokens)}
    result = make_result("knorm", 0.5, [False], onsets, text=text, entropy=entropy, stops={0: stop})
    return result.records[0]


def test_an_answer_that_does_not_end_the_run_is_an_overrun():
    ends = np.minimum(np.arange(1, 41), len(ANSWER))  # a token a character
    answered = ANSWER.index("4 And")  # its token is the answer's last
    assert event_of(a_record(), ends) == (Event.OVERRUN, answered + 1)
    assert event_of(a_record(n_tokens=30), ends[:30]) == (Event.CENSORED, 0)  # has not gone on long enough
    assert event_of(a_record("eos", text="no answer"), ends) == (Event.END, 39)


@pytest.mark.parametrize(("onset", "event"), [(3, Event.LOOP), (35, Event.OVERRUN)])
def test_the_first_event_counts(onset, event):
    ends = np.minimum(np.arange(1, 41), len(ANSWER))
    answered = ANSWER.index("4 And") + 1
    assert event_of(a_record(onset=onset), ends) == (event, min(onset, answered))


def test_an_onset_that_cannot_show_yet_is_not_taken_for_health():
    """A run that starts to repeat itself near the limit, too late for a third cycle, has no label there."""
    at_limit = a_record(n_tokens=160, text="no answer")
    assert event_of(at_limit, np.arange(160)) == (Event.CENSORED, 160 - UNSURE)
    ended = a_record("stop_string", n_tokens=160, text="no answer")
    assert event_of(ended, np.arange(160)) == (Event.END, 159)


@pytest.mark.parametrize("stop", ["timeout", "error"])
def test_a_run_that_was_stopped_is_censored(stop):
    stopped = a_record(stop, n_tokens=100, text="no answer")
    assert event_of(stopped, np.arange(100)) == (Event.CENSORED, 100 - UNSURE)


def test_loops_and_overruns_are_failures():
    assert [event for event in Event if event.is_failure] == [Event.LOOP, Event.OVERRUN]
