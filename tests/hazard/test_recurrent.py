"""The recurrent network learns what the order of tokens says, from its training tokens only."""

import numpy as np
from factories_risk import make_risk

from kvhelpers.hazard.predictors import LogisticHazard
from kvhelpers.hazard.recurrent import RecurrentHazard, _batches
from kvhelpers.hazard.risk_set import RiskSet
from kvhelpers.stats import auroc


def in_order(seed=0):
    """Runs that fail some time after a feature was 1 for a token; nothing is known at the time itself."""
    risk = make_risk(24, known=False, seed=seed)
    feature = np.zeros((len(risk.run), 1), dtype=np.float32)
    for run in np.flatnonzero(risk.runs["failed"]):
        feature[np.flatnonzero(risk.run == run)[0]] = 1
    return RiskSet(risk.runs, risk.run, risk.step, feature, ("sign",))


def test_what_came_before_is_remembered():
    risk = in_order()
    train = np.isin(risk.run, np.arange(0, len(risk.runs), 2) // 2 * 2) & (risk.run < 72)
    label, test = risk.label(30), risk.run >= 72

    def told(predictor):
        scores = predictor.fit(risk, train).score(risk)
        later = test & (risk.step > 4)
        return auroc(scores[later], label[later] == 1)(np.ones((1, later.sum())))[0]

    assert told(RecurrentHazard(30, ("sign",))) > 0.9 > 0.6 > told(LogisticHazard(30, ("sign",)))


def test_training_is_repeatable_and_scores_are_causal():
    risk = make_risk(8)
    train = risk.run < 24
    names = ("entropy", "margin")
    first, second = (RecurrentHazard(10, names).fit(risk, train) for _ in range(2))
    np.testing.assert_array_equal(first.score(risk), second.score(risk))
    early = risk.part(risk.step <= 5)
    np.testing.assert_allclose(first.score(early), first.score(risk)[risk.step <= 5], atol=1e-6)


def test_one_kind_of_label_has_nothing_but_its_rate():
    risk = make_risk(4)
    healthy = ~risk.runs["failed"].to_numpy()[risk.run]
    assert set(RecurrentHazard(10, ("entropy",)).fit(risk, healthy).score(risk)) == {0.0}


def test_batches_hold_each_token_once():
    run = np.repeat([0, 2, 3], [3, 1, 4])
    ((places, inside),) = _batches(run, np.array([3, 0, 2]))
    assert places[inside].tolist() == [4, 5, 6, 7, 0, 1, 2, 3]
    assert inside.sum(1).tolist() == [4, 3, 1] and (run[places] == [[3], [0], [2]]).all()
