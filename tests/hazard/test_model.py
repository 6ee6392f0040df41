"""The model gives scikit-learn's probabilities, survives storage, and refuses what it cannot use."""

import json

import numpy as np
import pytest
from factories_risk import make_risk
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from kvhelpers.errors import InputError
from kvhelpers.hazard.features import NAMES
from kvhelpers.hazard.model import PENALTY, fit, read_model

SOME = ("entropy", "margin", "kl_now", "repeated_suffix")


@pytest.fixture(scope="module")
def risk():
    made = make_risk()
    made.features[::7, NAMES.index("kl_now")] = np.nan
    return made


def test_probabilities_are_scikit_learn_s(risk):
    features, label = risk.columns(SOME).astype(float), risk.label(10)
    scaled = np.nan_to_num(StandardScaler().fit_transform(features).clip(-5, 5))
    theirs = LogisticRegression(C=PENALTY, solver="newton-cholesky").fit(scaled, label)
    ours = fit(risk, 10, SOME).score(features)
    assert ours == pytest.approx(theirs.predict_proba(scaled)[:, 1], abs=1e-6)
    assert ours.std() > 0.01


def test_a_constant_and_a_missing_feature_say_nothing(risk):
    made = make_risk()
    made.features[:, NAMES.index("margin")] = 2.0
    made.features[:, NAMES.index("kl_now")] = np.nan
    with_them, without = fit(made, 10, SOME), fit(made, 10, ("entropy", "repeated_suffix"))
    assert with_them.coefficient[1] == with_them.coefficient[2] == 0
    expected = without.score(made.columns(without.names))
    assert with_them.score(made.columns(SOME)) == pytest.approx(expected, abs=1e-6)


def test_a_stored_model_scores_the_same_and_holds_numbers_only(risk, tmp_path):
    model = fit(risk, 5, SOME)
    again = read_model(model.save(tmp_path / "model.json"))
    np.testing.assert_array_equal(again.score(risk.columns(SOME)), model.score(risk.columns(SOME)))
    assert (again.names, again.horizon, again.data_hash) == (SOME, 5, risk.hash())
    stored = json.loads((tmp_path / "model.json").read_text())
    assert all(len(stored[field]) == len(SOME) for field in ("mean", "scale", "coefficient"))


def test_the_hash_follows_the_training_data(risk):
    first = np.arange(len(risk.run)) < 500
    assert fit(risk, 10, SOME, first).data_hash == risk.part(first).hash() != risk.hash()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda risk: fit(risk, 0, SOME), "horizon 0 is below 1"),
        (lambda risk: fit(risk, 10, ("entropi",)), "feature 'entropi' is not in the risk set"),
        (
            lambda risk: fit(risk, 10, SOME, risk.label(10) == 0),
            "of .* tokens to learn from, 0 precede a failure",
        ),
        (
            lambda risk: fit(risk, 10, SOME).score(risk.columns(SOME[:2])),
            "have 2 columns; the model was trained on 4",
        ),
    ],
)
def test_bad_input_gets_one_sentence(risk, call, sentence):
    with pytest.raises(InputError, match=sentence):
        call(risk)


@pytest.mark.parametrize(
    "change",
    [
        lambda stored: "",
        lambda stored: "{}",
        lambda stored: "[1]",
        lambda stored: json.dumps(stored | {"horizon": 0}),
        lambda stored: json.dumps(stored | {"intercept": stored["intercept"] + 1}),
        lambda stored: json.dumps({key: value for key, value in stored.items() if key != "seal"}),
        lambda stored: json.dumps(stored | {"scale": stored["scale"][:2]}),
        lambda stored: json.dumps({key: value for key, value in stored.items() if key != "intercept"}),
    ],
)
def test_a_file_that_is_no_model_is_named(risk, tmp_path, change):
    path = fit(risk, 10, SOME).save(tmp_path / "model.json")
    path.write_text(change(json.loads(path.read_text())))
    with pytest.raises(InputError, match=r"model.json is no hazard model"):
        read_model(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nothing.json is no hazard model"):
        read_model(tmp_path / "nothing.json")
