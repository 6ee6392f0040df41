"""What ends a run for a predictor, by example."""

import numpy as np
import pytest
from factories import make_result

from kvhelpers.hazard.events import UNSURE, Definition, Event, event_by, event_of
from kvhelpers.scoring.failures import find_failures

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


@pytest.mark.parametrize("stop", ["eos", "max_new_tokens"])
def test_the_usual_definition_is_the_one_of_the_records(stop):
    """Of runs whose failures `find_failures` judged."""
    rng = np.random.default_rng(0)
    for length in (0, 5, 30):
        ids = [*rng.integers(0, 50, 12).tolist(), *rng.integers(50, 60, length).tolist() * 6]
        record = a_record(stop, n_tokens=len(ids), text="no answer")
        record = record.model_copy(update={"failures": find_failures(ids, record.stop_reason, True)})
        ends = np.arange(len(ids))
        assert event_by(Definition(), record, ids, ends, 160) == event_of(record, ends)


def test_other_definitions_have_other_onsets():
    cycle, ends = list(range(100, 110)), np.arange(62)
    ids = [1, 2, *cycle * 6]
    record = a_record(n_tokens=62, text="no answer")

    def event(**fields):
        return event_by(Definition(**fields), record, ids, ends, 80)

    assert event() == (Event.LOOP, 2) and event(second=True) == (Event.LOOP, 12)
    assert event(window=41, repeats=3) == (Event.CENSORED, 0)  # the window occurs twice only
    long = a_record(n_tokens=200, text="no answer")
    tokens, end = list(range(200)), np.arange(200)
    assert event_by(Definition(window=40), long, tokens, end, 200) == (Event.CENSORED, 200 - 120)
    assert event(limit_share=0.75) == (Event.LOOP, 2)
    assert event(window=41, limit_share=0.75) == (Event.OVERRUN, 60)
    ended = a_record("eos", n_tokens=62, text="no answer")
    assert event_by(Definition(window=41, limit_share=0.75), ended, ids, ends, 80) == (Event.END, 61)


def test_a_window_that_comes_back_later_begins_its_second_time_there():
    window = list(range(100, 120))
    ids = [*window, 1, *window, 2, 3, *window]
    record, ends = a_record(n_tokens=len(ids), text="no answer"), np.arange(len(ids))
    assert event_by(Definition(), record, ids, ends, 80) == (Event.LOOP, 0)
    assert event_by(Definition(second=True), record, ids, ends, 80) == (Event.LOOP, 21)


def test_how_long_an_answer_may_go_on_is_a_definition():
    ends = np.minimum(np.arange(1, 31), len(ANSWER))
    record, ids = a_record(n_tokens=30), list(range(30))
    assert event_by(Definition(), record, ids, ends, 80)[0] == Event.CENSORED
    assert event_by(Definition(goes_on=10), record, ids, ends, 80) == (
        Event.OVERRUN,
        ANSWER.index("4 And") + 1,
    )


def test_loops_and_overruns_are_failures():
    assert [event for event in Event if event.is_failure] == [Event.LOOP, Event.OVERRUN]


def test_a_draft_in_the_thoughts_is_no_answer_that_is_overrun():
    thoughts = "<think>#### 9 is it?</think>"
    record = a_record(text=thoughts + " No: #### 8" + " and" * 10, n_tokens=79)
    ends = np.arange(1, 80)  # a token a character
    assert event_of(record, ends) == (Event.OVERRUN, thoughts.index(" is it"))
    told = record.model_copy(update={"thinking_chars": len(thoughts)})
    assert event_of(told, ends) == (Event.OVERRUN, len(thoughts) + len(" No: #### 8"))
