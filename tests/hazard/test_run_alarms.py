"""Alarms of whole runs: thresholds from other prompts, and what a score that knows is worth."""

import numpy as np
import pytest
from factories_risk import Spy, make_risk

from kvhelpers.hazard.events import Event
from kvhelpers.hazard.run_alarms import RATES, alarm_tokens, caught_difference, judge_alarms


def run_alarms(risk, predictor, folds=5, rates=RATES):
    return judge_alarms(risk, rates, alarm_tokens(risk, predictor, folds, rates))


class FirstFeature:
    """Knows what the first feature says."""

    def fit(self, risk, train):
        return self

    def score(self, risk):
        return risk.features[:, 0]


def test_thresholds_come_from_prompts_that_are_not_tested():
    spy = Spy()
    run_alarms(make_risk(), spy, folds=3)
    assert len(spy.seen) == 3 * (3 + 1) and spy.is_disjoint("prompt")
    for outer in range(3):
        inner, test = spy.seen[4 * outer : 4 * outer + 3], spy.seen[4 * outer + 3]["prompt"][1]
        assert all(not test & (seen["prompt"][0] | seen["prompt"][1]) for seen in inner)


def test_a_score_that_knows_catches_all():
    """It rises five tokens before each onset: a lead of five, and no false alarm."""
    risk = make_risk()
    time, failed = risk.runs["time"].to_numpy()[risk.run], risk.runs["failed"].to_numpy()[risk.run]
    risk.features[:, 0] = failed & (time - risk.step <= 5)
    for alarms, rate in zip(run_alarms(risk, FirstFeature()), RATES, strict=True):
        assert (alarms.wanted, alarms.caught.value, alarms.false_alarms.value) == (rate, 1, 0)
        assert set(alarms.lead) == {5} and len(alarms.lead) == risk.runs["failed"].sum()
        assert alarms.immediate == 0


def test_failures_without_a_token_at_risk_are_counted_apart():
    risk = make_risk()
    risk.runs.loc[0, ["event", "failed", "time"]] = [Event.LOOP, True, 1]
    alarms = run_alarms(risk.part(risk.run != 0), FirstFeature())[0]
    assert alarms.immediate == 1 and alarms.caught.n == risk.runs["failed"].sum() - 1


@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_noise_alarms_as_often_as_is_wanted(rate):
    alarms = run_alarms(make_risk(60, known=False), FirstFeature(), rates=[rate])[0]
    assert alarms.false_alarms.value == pytest.approx(rate, abs=0.06)
    assert 0 < alarms.caught.value < 2 * rate and np.min(alarms.lead) >= 1


def test_right_and_wrong_ends_are_counted_apart_and_the_threshold_is_of_right_ones():
    risk = make_risk(60, known=False)
    healthy = np.flatnonzero(~risk.runs["failed"])
    risk.runs.loc[healthy[::2], "correct"] = False
    risk.features[risk.ended(right=False)[risk.run], 0] += 10  # wrong ends look like nothing else
    alarms = run_alarms(risk, FirstFeature(), rates=[0.2])[0]
    assert alarms.wrong_ends.value == 1 and alarms.wrong_ends.n == len(healthy[::2])
    assert alarms.false_alarms.value == pytest.approx(0.2, abs=0.08)
    assert alarms.false_alarms.n == len(healthy) - len(healthy[::2])


def test_a_score_that_knows_only_the_task_announces_nothing():
    """In task0 all runs score higher, whether they fail or not."""
    risk = make_risk(60, known=False)
    hard = (risk.runs["task"] == "task0").to_numpy()
    risk.features[:, 0] += 10 * hard[risk.run]
    alarms = run_alarms(risk, FirstFeature(), rates=[0.1])[0]
    assert alarms.caught.value < 0.2 and alarms.false_alarms.value == pytest.approx(0.1, abs=0.06)
    risk.runs.loc[hard, "correct"] = False  # no threshold can be set where none ends right
    none = run_alarms(risk, FirstFeature(), rates=[0.1])[0]
    assert none.wrong_ends.value == 0 and none.caught.value < alarms.caught.value + 0.05


def test_what_two_predictors_catch_is_compared_on_the_same_runs():
    risk = make_risk()
    could_warn = risk.runs["failed"].to_numpy()
    every = np.where(could_warn, 3.0, np.inf)
    half = np.where(could_warn & (np.cumsum(could_warn) % 2 == 0), 3.0, np.inf)
    difference = caught_difference(risk, every, half)
    assert (difference.value, difference.n) == (0.5, could_warn.sum())
    assert caught_difference(risk, half, every).value == -0.5
    same = caught_difference(risk, half, half)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert alarm_tokens(risk, FirstFeature(), rates=[0.5]).shape == (1, len(risk.runs))
