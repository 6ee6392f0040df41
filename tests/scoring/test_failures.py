import random

import pytest

from kvhelpers.records import StopReason
from kvhelpers.scoring.failures import find_failures, find_periodic_loop, find_window_loop


def fresh(n, start=1000):
    return list(range(start, start + n))


def test_no_loop_in_distinct_tokens():
    assert find_window_loop(fresh(200)) is None and find_periodic_loop(fresh(200)) is None


@pytest.mark.parametrize("period", (1, 2, 5, 7, 19, 20, 21, 40))
@pytest.mark.parametrize("lead", (0, 1, 13))
def test_periodic_loop_has_its_smallest_period_start_and_length(period, lead):
    needed = max(3 * period, 20 + 2 * period)
    tokens = fresh(lead) + (fresh(period, 0) * 60)[:needed]
    loop = find_periodic_loop(tokens)
    assert (loop.period, loop.start, loop.length, loop.detected) == (period, lead, needed, lead + needed - 1)
    assert loop.repeats == pytest.approx(needed / period)
    assert find_periodic_loop(tokens[:-1]) is None


def test_window_loop_needs_three_occurrences_not_neighbours():
    window = fresh(20, 0)
    tokens = window + fresh(5) + window + fresh(9, 2000) + window
    loop = find_window_loop(tokens)
    assert (loop.start, loop.detected) == (0, len(tokens) - 1)
    assert find_window_loop(tokens[:-1]) is None
    assert find_periodic_loop(tokens) is None


def test_every_periodic_loop_is_a_window_loop():
    draw = random.Random(0)
    loops = 0
    for _ in range(300):
        tokens = [draw.randrange(3) for _ in range(draw.randrange(60))]
        tokens += ([draw.randrange(50) for _ in range(draw.randint(1, 30))] * 10)[: draw.randrange(150)]
        if (loop := find_periodic_loop(tokens)) is not None:
            loops += 1
            assert find_window_loop(tokens) is not None
            body = tokens[loop.start : loop.start + loop.length]
            assert body[loop.period :] == body[: -loop.period]
            assert loop.start == 0 or tokens[loop.start - 1] != tokens[loop.start - 1 + loop.period]
    assert loops > 50


def test_the_first_of_two_loops_gives_the_onset():
    tokens = fresh(10) + fresh(30, 0) * 5 + [7] * 100
    assert find_periodic_loop(tokens).start == 10


def test_detection_is_causal():
    """What is detected at token t depends on tokens up to t only."""
    tokens = fresh(10) + fresh(4, 0) * 20
    failures = find_failures(tokens, StopReason.MAX_NEW_TOKENS, False)
    until = tokens[: failures.loop_detected + 1]
    assert find_failures(until, StopReason.MAX_NEW_TOKENS, False).loop_detected == failures.loop_detected
    assert not find_failures(until[:-1], StopReason.MAX_NEW_TOKENS, False).looping


def test_the_onset_belongs_to_the_loop_that_is_detected_first():
    window = fresh(20, 0)
    tokens = window + fresh(9, 500) + window + fresh(9, 600) + window + fresh(40, 3000) + [1, 2, 3] * 20
    failures = find_failures(tokens, StopReason.MAX_NEW_TOKENS, False)
    assert failures.periodic_loop.start > failures.loop_detected >= failures.loop_onset == 0


@pytest.mark.parametrize(
    ("tokens", "answer", "reason", "right", "left"),
    [
        (fresh(5) + [1] * 30 + fresh(9), 40, StopReason.EOS, True, True),
        (fresh(5) + [1] * 30 + fresh(9), 35, StopReason.STOP_STRING, True, True),
        (fresh(5) + [1] * 30 + fresh(9), 34, StopReason.EOS, True, False),  # the last one that is repeated
        (fresh(5) + [1] * 30 + fresh(9), 2, StopReason.EOS, True, False),  # in front of the loop
        (fresh(5) + [1] * 30 + fresh(9), None, StopReason.EOS, True, False),
        (fresh(5) + [1] * 30 + fresh(9), 40, StopReason.EOS, False, False),
        (fresh(5) + [1] * 30 + fresh(9), 40, StopReason.MAX_NEW_TOKENS, True, False),
        (
            fresh(5) + [1] * 30 + fresh(9) + [1, 2] * 30,
            40,
            StopReason.EOS,
            True,
            False,
        ),  # another loop behind
        (3 * [*fresh(20, 0), 7, 8] + fresh(4), 67, StopReason.EOS, True, True),
        (3 * [*fresh(20, 0), 7, 8] + fresh(4), 60, StopReason.EOS, True, False),
        (fresh(50), 40, StopReason.EOS, True, False),  # no loop
    ],
)
def test_a_loop_is_left_where_the_right_answer_begins_behind_all_that_is_repeated(
    tokens, answer, reason, right, left
):
    failures = find_failures(tokens, reason, right, answer)
    assert failures.loop_left is left
    assert failures.looping is (len(set(tokens)) < len(tokens))
    others = failures.wrong_answer or failures.non_termination
    assert failures.catastrophic is (others or (failures.looping and not left))


def test_kinds_of_failure():
    healthy = find_failures(fresh(30), StopReason.EOS, True)
    assert not healthy.catastrophic and healthy.loop_onset is None
    assert find_failures(fresh(30), StopReason.EOS, False).wrong_answer
    for reason in (StopReason.MAX_NEW_TOKENS, StopReason.TIMEOUT):
        assert find_failures(fresh(30), reason, True).non_termination
    for reason in (StopReason.EOS, StopReason.STOP_STRING):
        assert not find_failures(fresh(30), reason, True).non_termination
    failed = find_failures([], StopReason.ERROR, False)
    assert failed.wrong_answer and failed.catastrophic and not failed.non_termination
    looping = find_failures(fresh(5) + [1] * 30, StopReason.EOS, True)
    assert looping.looping and looping.loop_onset == 5 and looping.catastrophic
