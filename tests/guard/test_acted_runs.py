import pytest
from factories import make_result

from kvhelpers.guard.acted_runs import START, Group, places
from kvhelpers.guard.definition import ActionsDefinition, Source
from kvhelpers.records import StopReason

N = 12


class Made(Source):
    """A source of conditions made for the purpose."""

    def __init__(self, baseline, *conditions):
        self.experiment, self.baseline = "made", baseline
        self.conditions = {result.label: result for result in conditions}
        self.every = {baseline.label: baseline} | self.conditions


@pytest.fixture
def definition():
    return ActionsDefinition(
        kind="actions",
        name="made",
        objective="See.",
        sources=[{"experiment": "made", "conditions": ["knorm 0.5"]}],
        runs=3,
        others=2,
        shares=(0.5,),
    )


def source(onsets, right=()):
    compressed = make_result("knorm", 0.5, [index in right for index in range(N)], onsets)
    return Made(make_result("none", 0.0, [True] * (N - 1) + [False]), compressed)


def of(group, made):
    return [place for place in made if place.group == group]


def test_failures_are_acted_on_at_their_onset_and_before_where_there_is_a_token(definition):
    made = places(source({0: 20, 1: 7, 2: 0}), definition)
    assert [(place.prompt_index, place.keep) for place in of(Group.FAILING, made)] == [
        (0, {START: 0, "onset − 16": 4, "onset − 10": 10, "onset − 5": 15, "onset": 20}),
        (1, {START: 0, "onset − 5": 2, "onset": 7}),
        (2, {START: 0}),
    ]


def test_failures_at_the_first_token_take_no_room_from_others(definition):
    made = places(source(dict.fromkeys(range(6), 0) | dict.fromkeys(range(6, 11), 9)), definition)
    assert [place.prompt_index for place in of(Group.FAILING, made)] == [0, 1, 2, 6, 7, 8]


def test_wrong_runs_are_those_that_need_not_be(definition):
    made = places(source({0: 20}, right=range(1, N - 2)), definition)
    assert [(place.prompt_index, place.keep) for place in of(Group.WRONG, made)] == [
        (N - 2, {START: 0, "50 % of the run": 15})
    ]  # the last prompt is not solved without a press either


def test_a_run_that_fails_is_not_among_the_wrong_ones(definition):
    """Some that loop or overrun end by themselves."""
    made = source({0: 20}, right=range(3, N))
    ((label, result),) = made.conditions.items()
    ended = result.records[0].model_copy(update={"stop_reason": StopReason.EOS})
    records = (ended, *result.records[1:])
    made.conditions[label] = result.model_copy(update={"records": records})
    wrong = of(Group.WRONG, places(made, definition))
    assert [place.prompt_index for place in wrong] == [1, 2]


def test_right_runs_are_acted_on_at_tokens_at_which_failing_ones_are(definition):
    right = of(Group.RIGHT, places(source({0: 20}, right=range(1, N)), definition))
    assert [place.prompt_index for place in right] == [1, 2]
    assert {place.keep["matched"] for place in right} <= {4, 10, 15, 20}


def test_without_failures_right_runs_are_acted_on_at_shares(definition):
    right = of(Group.RIGHT, places(source({}, right=range(N)), definition))
    assert [place.keep for place in right] == [{START: 0, "50 % of the run": 15}] * 2
