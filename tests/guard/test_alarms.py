import math

import numpy as np
import pytest

from kvhelpers.errors import InputError
from kvhelpers.guard.alarms import AtToken, CanaryAlarm, Guard, HazardAlarm, RepetitionAlarm, first_alarm
from kvhelpers.guard.responses import RESTART, RESTORE, STOP, Response, force, prune, relax, roll_back
from kvhelpers.hazard.features import READS, run_features
from kvhelpers.hazard.model import HazardModel
from kvhelpers.presses.spec import PressSpec


def model(names=("entropy",), weight=4.0):
    n = len(names)
    return HazardModel(
        horizon=5,
        names=names,
        data_hash="0",
        mean=(0.0,) * n,
        scale=(1.0,) * n,
        coefficient=(weight,) * n,
        intercept=-2.0,
    )


def signals_of(entropy, canary=math.nan):
    return [dict.fromkeys(READS, canary) | dict.fromkeys(READS[:7], 0.0) | {"entropy": h} for h in entropy]


def test_the_hazard_s_alarm_is_at_the_first_token_above_the_threshold():
    entropy = [0.1, 0.2, 0.3, 0.9, 0.2]
    signals, tokens = signals_of(entropy), [5, 6, 7, 8, 9]
    features = run_features(tokens, {name: np.array([row[name] for row in signals]) for name in READS})
    risk = model().score(features[:, :1])
    threshold = float(np.sort(risk)[-2])
    assert first_alarm(HazardAlarm(model(), threshold), tokens, signals) == int(risk.argmax()) + 1 == 4


def test_the_first_token_comes_from_the_full_cache_and_raises_no_hazard_alarm():
    signals = signals_of([3.0, 0.0, 0.0])
    assert first_alarm(HazardAlarm(model(), 0.9), [1, 2, 3], signals) is None


def test_the_last_token_ends_the_run_and_raises_no_alarm():
    assert first_alarm(HazardAlarm(model(), 0.5), [1, 2, 3], signals_of([0.0, 0.0, 3.0])) is None


def test_the_canary_decides_once():
    signals, tokens = signals_of([0.0] * 9, canary=0.5), list(range(9))
    signals[0]["canary_kl"] = math.nan
    assert first_alarm(CanaryAlarm(0.4, 4), tokens, signals) == 5
    assert first_alarm(CanaryAlarm(0.6, 4), tokens, signals) is None
    with pytest.raises(InputError, match="canary_commit needs a canary of 4 tokens"):
        first_alarm(CanaryAlarm(0.4, 4), tokens, signals_of([0.0] * 9))


def test_repetition_is_a_window_that_occurred_before():
    tokens = [1, 2, 3, 4, 1, 2, 3, 9]
    assert first_alarm(RepetitionAlarm(3), tokens, [{}] * 8) == 7
    assert first_alarm(RepetitionAlarm(4), tokens, [{}] * 8) is None


def test_a_guard_acts_once_and_as_its_response_says():
    guard = Guard(AtToken(3), roll_back(2), prompt_tokens=50)
    actions = [guard.look([0] * n, None) for n in (0, 1, 2, 3, 3)]
    assert actions[:3] == [None] * 3 and actions[4] is None
    assert (actions[3].name, actions[3].keep, actions[3].press) == ("roll back", 1, None)


@pytest.mark.parametrize(
    ("response", "keep"), [(RESTORE, 9), (RESTART, 0), (roll_back(4), 5), (roll_back(20), 0), (STOP, 9)]
)
def test_what_responses_keep(response, keep):
    assert response.keep(range(9)) == keep
    assert response.action(100, range(9)).stop == (response is STOP)


def test_pruning_keeps_the_first_occurrence_and_what_stands_before_it():
    spec, loop = PressSpec("knorm", 0.5), [7, 8, 9]
    tokens = [1, 2, *loop, 5, *loop]
    assert prune(3, spec).keep(tokens) == 6
    assert prune(3, spec).keep([1, 2, *loop]) == 5
    assert prune(2, spec).keep([4, 4, 4]) == 1  # the window overlaps itself


def test_forcing_puts_the_mark_behind_all_tokens_under_the_press_anew():
    action = force((3, 4), PressSpec("knorm", 0.5)).action(60, range(10))
    assert (action.keep, action.then, action.press.compression_ratio) == (10, (3, 4), 0.5)


def test_relaxing_is_the_same_press_at_a_share_of_its_ratio():
    made = relax(PressSpec("snapkv", 0.8, None, {"window_size": 16}), 0.5)
    assert (made.spec.name, made.spec.ratio, made.spec.kwargs) == ("snapkv", 0.4, {"window_size": 16})
    press = made.action(60, range(4)).press
    assert (press.compression_ratio, press.window_size) == (0.4, 16)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: HazardAlarm(model(), 1.5), "threshold 1.5 is outside [0, 1]; it is a probability"),
        (
            lambda: HazardAlarm(model(("removed",)), 0.5),
            "the model needs feature 'removed', which is not known",
        ),
        (lambda: roll_back(0), "roll_back 0 is not allowed; it is a number of tokens from 1 on"),
        (lambda: relax(PressSpec("knorm", 0.5), 1.5), "relax 1.5 is outside [0, 1)"),
        (lambda: relax(PressSpec("knorm", None, 64), 0.5), "press 'knorm' has a budget"),
    ],
)
def test_bad_input_is_told_in_a_sentence(make, sentence):
    with pytest.raises(InputError) as caught:
        make()
    assert str(caught.value).startswith(sentence)


def test_a_response_without_anything_restores():
    assert Response("x") == Response("x", back=0)
