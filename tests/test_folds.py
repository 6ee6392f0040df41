"""No prompt on both sides, and where it says so no press and no task either."""

import numpy as np
import pytest
from made_risk import make_risk

from kvhelpers import folds
from kvhelpers.errors import InputError
from kvhelpers.runwarnings import RATES, run_warnings


@pytest.fixture(scope="module")
def risk():
    return make_risk()


def spy(risk, seen):
    """A learner that notes who was trained on and who was scored."""

    def learn(part, train):
        trained = part.runs.loc[np.unique(part.run[train])]

        def score(other):
            tested = other.runs.loc[np.unique(other.run)]
            seen.append({name: (set(trained[name]), set(tested[name])) for name in ("prompt", "press", "task")})
            return np.zeros(len(other.run))

        return score

    return learn


def disjoint(seen, name):
    return all(not trained & tested for one in seen for trained, tested in [one[name]])


def test_out_of_fold_shares_no_prompt_and_scores_every_token(risk):
    seen = []
    assert np.isfinite(folds.out_of_fold(risk, spy(risk, seen))).all()
    assert len(seen) == 5 and disjoint(seen, "prompt")
    sizes = np.bincount(folds.fold_of_run(risk))
    assert sizes.max() - sizes.min() <= 6  # one prompt


def test_a_press_left_out_shares_neither_prompt_nor_press(risk):
    seen = []
    scores = folds.press_left_out(risk, spy(risk, seen))
    assert len(seen) == 10 and disjoint(seen, "prompt") and disjoint(seen, "press")
    bare = (risk.runs["press"] == "none").to_numpy()[risk.run]
    assert np.isnan(scores[bare]).all() and np.isfinite(scores[~bare]).all()


def test_a_task_left_out_shares_neither_prompt_nor_task(risk):
    seen = []
    assert np.isfinite(folds.task_left_out(risk, spy(risk, seen))).all()
    assert len(seen) == 2 and disjoint(seen, "prompt") and disjoint(seen, "task")


def test_thresholds_come_from_prompts_that_are_not_tested(risk):
    seen = []
    run_warnings(risk, spy(risk, seen), folds=3)
    assert len(seen) == 3 * (3 + 1) and disjoint(seen, "prompt")
    for outer in range(3):
        inner, test = seen[4 * outer : 4 * outer + 3], seen[4 * outer + 3]["prompt"][1]
        assert all(not test & (one["prompt"][0] | one["prompt"][1]) for one in inner)


@pytest.mark.parametrize("number", [1, 25])
def test_folds_that_make_no_sense(risk, number):
    with pytest.raises(
        InputError, match=f"folds {number} is not allowed; it is at least 2 and at most the number of prompts, 24"
    ):
        folds.fold_of_run(risk, number)


def test_warnings_of_a_score_that_knows():
    """A score that rises five tokens before each onset catches all failures with a lead of five and alarms nobody else."""
    risk = make_risk()
    time, failed = risk.runs["time"].to_numpy()[risk.run], risk.runs["failed"].to_numpy()[risk.run]
    risk.features[:, 0] = failed & (time - risk.step <= 5)
    for one, rate in zip(run_warnings(risk, lambda part, train: lambda other: other.features[:, 0]), RATES, strict=True):
        assert (one.wanted, one.caught.value, one.false_alarms.value, one.immediate) == (rate, 1, 0, 0)
        assert set(one.lead) == {5}
    risk.runs.loc[0, ["event", "failed", "time"]] = ["loop", True, 1]
    gone = risk.part(risk.run != 0)
    assert run_warnings(gone, lambda part, train: lambda other: other.features[:, 0])[0].immediate == 1


def test_where_no_failure_can_be_learned_the_rate_is_the_score(risk):
    healthy = (risk.runs["press"] == "none").to_numpy()[risk.run]
    assert set(folds.learner(10, ("entropy",), "average")(risk, healthy)(risk)) == {0.0}
