"""Scores are judged among tokens of the same condition, number and fold, and runs of the same condition."""

import numpy as np
from factories_risk import make_risk
from sklearn.metrics import roc_auc_score

from kvhelpers.hazard.evaluation import Evaluation
from kvhelpers.hazard.events import Event
from kvhelpers.hazard.features import MAIN, family_names
from kvhelpers.hazard.predictors import LogisticHazard


def test_where_nothing_is_known_nothing_is_seen():
    evaluation = Evaluation(make_risk(10, known=False), 10, 2)
    auroc = evaluation.metrics(evaluation.scores(LogisticHazard(10, family_names(*MAIN)))).auroc_within
    assert auroc.low <= 0.5 <= auroc.high


def test_pairs_are_of_the_same_fold():
    risk = make_risk(10)
    evaluation = Evaluation(risk, 10, 2)
    fold = np.zeros(len(risk.runs), dtype=int)
    for index, split in enumerate(evaluation.splits):
        fold[split.test] = index
    by_fold = fold[risk.run].astype(float)  # a score that knows the fold and nothing else
    assert evaluation.metrics(by_fold).auroc_within.value == 0.5


def test_knowing_the_condition_and_the_token_gains_nothing():
    risk = make_risk(10)
    failing = risk.runs.groupby("condition")["failed"].transform("mean").to_numpy()
    scores = failing[risk.run] + risk.step / 1000
    metrics = Evaluation(risk, 10, 2).metrics(scores)
    assert metrics.auroc_within.value == 0.5 < metrics.auroc.value


def test_runs_are_ranked_by_their_highest_score_within_their_condition():
    """One condition and two folds: scikit-learn's AUROC of each fold, weighted by its pairs."""
    risk = make_risk(20, known=False)
    scores = np.random.default_rng(0).normal(size=len(risk.run))
    evaluation = Evaluation(risk, 10, 2)
    highest = np.array([scores[risk.run == run].max() for run in range(len(risk.runs))])
    won, pairs = 0.0, 0
    for split in evaluation.splits:
        for press in ("knorm", "tova"):
            mine = split.test & (risk.runs["press"] == press).to_numpy()
            failed = risk.runs["failed"].to_numpy()[mine]
            n = failed.sum() * (~failed).sum()
            won, pairs = won + n * roc_auc_score(failed, highest[mine]), pairs + n
    assert np.isclose(evaluation.judge_runs(scores).value, won / pairs)
    known = risk.runs["failed"].to_numpy()[risk.run].astype(float)
    assert evaluation.judge_runs(known).value == 1
    assert Evaluation(risk, None, 2).judge_runs(known).value == 1


def test_runs_whose_outcome_is_not_known_are_left_out():
    risk = make_risk(10)
    healthy = np.flatnonzero((risk.runs["press"] == "knorm") & ~risk.runs["failed"])
    risk.runs.loc[healthy, "event"] = Event.CENSORED
    judged = Evaluation(risk, 10, 2).judge_runs(risk.step.astype(float))
    assert judged.n == len(risk.runs) - len(healthy)
    assert Evaluation(risk.part(risk.run < 0), 10, 2).judge_runs(np.zeros(0)) is None
