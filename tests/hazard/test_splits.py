"""No prompt on both sides, and where it says so no press and no task either."""

import numpy as np
import pytest
from factories_risk import Spy, make_risk
from sklearn.model_selection import GroupKFold

from kvhelpers.errors import InputError
from kvhelpers.hazard.splits import press_splits, prompt_splits, scores_of, task_splits, with_share


@pytest.fixture(scope="module")
def risk():
    return make_risk()


def test_folds_share_no_prompt_and_score_every_token(risk):
    spy = Spy()
    assert np.isfinite(scores_of(risk, spy, prompt_splits(risk.runs))).all()
    assert len(spy.seen) == 5 and spy.is_disjoint("prompt")
    sizes = [split.test.sum() for split in prompt_splits(risk.runs)]
    assert sum(sizes) == len(risk.runs) and max(sizes) - min(sizes) <= 6  # one prompt


def test_folds_are_scikit_learn_s_and_those_of_some_runs_are_among_them(risk):
    prompts, some = risk.runs["prompt"].to_numpy(), (risk.runs["task"] == "task0").to_numpy()
    expected = GroupKFold(3).split(prompts[some], groups=prompts[some])
    for split, (train, test) in zip(prompt_splits(risk.runs, 3, some), expected, strict=True):
        assert np.flatnonzero(split.train).tolist() == np.flatnonzero(some)[train].tolist()
        assert np.flatnonzero(split.test).tolist() == np.flatnonzero(some)[test].tolist()


def test_a_press_left_out_shares_neither_prompt_nor_press(risk):
    spy = Spy()
    scores = scores_of(risk, spy, press_splits(risk.runs))
    assert len(spy.seen) == 10 and spy.is_disjoint("prompt") and spy.is_disjoint("press")
    assert all("none" in trained for trained, _ in (seen["press"] for seen in spy.seen))
    bare = (risk.runs["press"] == "none").to_numpy()[risk.run]
    assert np.isnan(scores[bare]).all() and np.isfinite(scores[~bare]).all()


def test_a_task_left_out_shares_neither_prompt_nor_task(risk):
    spy = Spy()
    assert np.isfinite(scores_of(risk, spy, task_splits(risk.runs))).all()
    assert len(spy.seen) == 10 and spy.is_disjoint("prompt") and spy.is_disjoint("task")
    assert task_splits(risk.runs[risk.runs["task"] == "task0"]) == []


def test_two_models_on_the_same_prompts_share_none_of_them(risk):
    runs = risk.runs.assign(task=np.where(risk.runs["condition"].str.endswith("0"), "a", "b"))
    for split in task_splits(runs):
        train, test = runs[split.train], runs[split.test]
        assert not set(train["prompt"]) & set(test["prompt"]) and not set(train["task"]) & set(test["task"])


@pytest.mark.parametrize(("share", "prompts"), [(0.25, 4), (0.01, 2)])
def test_a_share_of_the_training_prompts_keeps_all_of_their_runs(risk, share, prompts):
    whole = prompt_splits(risk.runs, 3)[0]
    part = with_share(whole, risk.runs, share)
    kept = set(risk.runs["prompt"][part.train])
    assert len(kept) == prompts and not (part.train & ~whole.train).any()
    assert part.train.sum() == 6 * prompts and (part.test == whole.test).all()


@pytest.mark.parametrize("number", [1, 25])
def test_folds_that_make_no_sense(risk, number):
    sentence = f"folds {number} is not allowed; it is at least 2 and at most the number of prompts, 24"
    with pytest.raises(InputError, match=sentence):
        prompt_splits(risk.runs, number)
