"""Predictors give scikit-learn's probabilities, survive storage, and refuse what they were not trained on."""

import json

import numpy as np
import pytest
from made_risk import make_risk
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from kvhelpers.causal import NAMES, READS, run_features
from kvhelpers.errors import InputError
from kvhelpers.hazard import KINDS, PENALTY, TREES, fit, load
from kvhelpers.online import OnlineScorer

SOME = ("entropy", "margin", "kl_now", "repeated_suffix")


@pytest.fixture(scope="module")
def risk():
    made = make_risk()
    made.features[::7, NAMES.index("kl_now")] = np.nan
    return made


@pytest.mark.parametrize(("names", "changes"), [(NAMES, {}), (SOME, {"max_features": 1.0})])
def test_boosting_gives_scikit_learn_s_probabilities(risk, names, changes):
    features, label = risk.columns(names), risk.label(10)
    theirs = HistGradientBoostingClassifier(**TREES | changes, early_stopping=False, random_state=0).fit(features, label)
    ours = fit(risk, 10, names, "boosting").score(features)
    assert ours == pytest.approx(theirs.predict_proba(features)[:, 1], abs=1e-9)
    assert ours.std() > 0.01


def test_logistic_gives_scikit_learn_s_probabilities(risk):
    names = ("entropy", "margin")
    features, label = risk.columns(names).astype(float), risk.label(10)
    scaled = StandardScaler().fit_transform(features).clip(-5, 5)
    theirs = LogisticRegression(C=PENALTY, solver="newton-cholesky").fit(scaled, label)
    assert fit(risk, 10, names, "logistic").score(features) == pytest.approx(theirs.predict_proba(scaled)[:, 1], abs=1e-6)


def test_the_average_is_of_log_odds(risk):
    features = risk.columns(SOME)
    odds = {kind: np.log(p / (1 - p)) for kind in KINDS for p in [fit(risk, 10, SOME, kind).score(features)]}
    assert odds["average"] == pytest.approx((odds["logistic"] + odds["boosting"]) / 2, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_model_scores_the_same_and_holds_numbers_only(risk, kind, tmp_path):
    model = fit(risk, 5, SOME, kind)
    again = load(model.save(tmp_path / "model.json"))
    np.testing.assert_array_equal(again.score(risk.columns(SOME)), model.score(risk.columns(SOME)))
    assert (again.names, again.horizon, again.data_hash) == (SOME, 5, risk.hash())
    json.loads((tmp_path / "model.json").read_text())


def test_token_by_token_is_the_table(risk):
    model = fit(risk, 10, NAMES, "average")
    rng = np.random.default_rng(1)
    ids, signals = rng.integers(0, 9, 40).tolist(), {name: rng.random(40).astype(np.float32) for name in READS}
    scorer = OnlineScorer(model)
    online = [scorer.push(token, {name: float(signals[name][t]) for name in READS}) for t, token in enumerate(ids)]
    assert online == pytest.approx(model.score(run_features(ids, signals)), abs=1e-12)


def test_the_hash_follows_the_training_data(risk):
    first = np.arange(len(risk.run)) < 500
    assert fit(risk, 10, SOME, "logistic", first).data_hash == risk.part(first).hash() != risk.hash()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda risk: fit(risk, 10, SOME, "forest"), "kind 'forest' is unknown"),
        (lambda risk: fit(risk, 0, SOME, "logistic"), "horizon 0 is below 1"),
        (lambda risk: fit(risk, 10, ("entropi",), "logistic"), "feature 'entropi' is not in the risk set"),
        (lambda risk: fit(risk, 10, SOME, "logistic", risk.label(10) == 0), "of .* tokens to learn from, 0 precede a failure"),
        (
            lambda risk: fit(risk, 10, SOME, "logistic").score(risk.columns(SOME[:2])),
            "have 2 columns; the model was trained on 4",
        ),
        (lambda risk: OnlineScorer(fit(risk, 10, ("removed",), "boosting")), "needs feature 'removed', which is not known"),
    ],
)
def test_bad_input_gets_one_sentence(risk, call, sentence):
    with pytest.raises(InputError, match=sentence):
        call(risk)


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[1]", '{"kind": 1, "numbers": 5}', '{"kind": "forest", "numbers": {}}', '{"kind": "logistic", "numbers": {}}'],
)
def test_a_file_that_is_no_model_is_named(tmp_path, content):
    path = tmp_path / "model.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"model.json is no hazard model"):
        load(path)
