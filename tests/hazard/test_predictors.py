"""What predictors learn is the model's, scikit-learn's, or nothing where there is nothing."""

import numpy as np
import pandas as pd
import pytest
from factories_risk import make_risk
from sklearn.ensemble import HistGradientBoostingClassifier

from kvhelpers.hazard.baselines import Clock, CusumOfEntropy, FailureRate, baselines, with_cusum
from kvhelpers.hazard.features import NAMES
from kvhelpers.hazard.model import fit
from kvhelpers.hazard.predictors import TREE_SETTINGS, BoostedTrees, LogisticHazard
from kvhelpers.stats import token_metrics

SOME = ("entropy", "margin", "kl_now", "repeated_suffix")


@pytest.fixture(scope="module")
def risk():
    return make_risk()


@pytest.fixture(scope="module")
def half(risk):
    return np.arange(len(risk.run)) < len(risk.run) // 2


def test_the_logistic_hazard_is_the_model_that_is_shipped(risk, half):
    scores = LogisticHazard(10, SOME).fit(risk, half).score(risk)
    assert scores == pytest.approx(fit(risk, 10, SOME, half).score(risk.columns(SOME)), abs=1e-12)


@pytest.mark.parametrize(("names", "changes"), [(NAMES, {}), (SOME, {"max_features": 1.0})])
def test_trees_are_scikit_learn_s(risk, half, names, changes):
    trees = HistGradientBoostingClassifier(**TREE_SETTINGS | changes, early_stopping=False, random_state=0)
    trees.fit(risk.columns(names, half), risk.label(10)[half])
    scores = BoostedTrees(10, names).fit(risk, half).score(risk)
    np.testing.assert_array_equal(scores, trees.predict_proba(risk.columns(names))[:, 1])
    assert scores.std() > 0.01


def test_trees_bear_a_feature_that_is_always_missing():
    made = make_risk()
    made.features[:, NAMES.index("kl_now")] = np.nan
    everything = np.ones(len(made.run), dtype=bool)
    without = tuple(name for name in SOME if name != "kl_now")
    scores = BoostedTrees(10, SOME).fit(made, everything).score(made)
    expected = BoostedTrees(10, without).fit(made, everything).score(made)
    assert scores == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", [LogisticHazard, BoostedTrees])
def test_where_no_failure_can_be_learned_the_rate_is_the_score(risk, kind):
    healthy = (risk.runs["press"] == "none").to_numpy()[risk.run]
    predictor = kind(10, ("entropy",))
    assert set(predictor.fit(risk, healthy).score(risk)) == {0.0}
    everything = np.ones(len(risk.run), dtype=bool)
    assert len(set(predictor.fit(risk, everything).score(risk))) > 1  # it forgets the rate when it learns


def test_the_failure_rate_and_the_clock_know_the_condition_only(risk, half):
    scores = FailureRate(10).fit(risk, half).score(risk)
    press = risk.runs["press"].to_numpy()[risk.run]
    assert set(scores[press == "none"]) == {0.0} and set(scores[press == "knorm"]) == {0.5}
    clock = pd.Series(Clock(10).fit(risk, half).score(risk)).groupby([press, risk.step])
    assert (clock.nunique() == 1).all() and clock.first()["knorm"].nunique() > 3


def test_cusum_by_example():
    risk = make_risk(2)
    first = risk.part(risk.run < 2)
    first.features[:, 0] = 0
    begin = np.flatnonzero(first.run == 1)[0]
    first.features[:4, 0] = first.features[begin : begin + 4, 0] = [3, 1, 5, 1]
    sums = with_cusum(first, mean=1.0, spread=1.0).columns(["cusum"])[:, 0]
    assert sums[:6].tolist() == [1.5, 1.0, 4.5, 4.0, 2.5, 1.0]
    assert sums[begin : begin + 6].tolist() == [1.5, 1.0, 4.5, 4.0, 2.5, 1.0]  # it begins anew with each run


def test_cusum_of_entropy_is_standardized_by_uncompressed_runs(risk):
    everything = np.ones(len(risk.run), dtype=bool)
    predictor = CusumOfEntropy(10).fit(risk, everything)
    usual = risk.columns(["entropy"])[(risk.runs["press"] == "none").to_numpy()[risk.run], 0]
    assert (predictor.mean, predictor.spread) == pytest.approx((usual.mean(), usual.std()))
    metrics = token_metrics(predictor.score(risk), risk.label(10), risk.prompts, risk.step)
    assert metrics.auroc.value > 0.8


def test_every_baseline_learns_and_scores(risk, half):
    for name, predictor in baselines(risk, 10).items():
        scores = predictor.fit(risk, half).score(risk.part(~half))
        assert len(scores) == (~half).sum() and ((scores >= 0) & (scores <= 1)).all(), name
