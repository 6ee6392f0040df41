"""The scrutiny ends at the study's own number, and its definitions are those that it says."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from kvhelpers.experiment.grid import finished_results
from kvhelpers.hazard.baselines import PROPOSED, TREES, proposed
from kvhelpers.hazard.evaluation import Evaluation
from kvhelpers.hazard.events import Definition
from kvhelpers.hazard.predictors import BoostedTrees
from kvhelpers.hazard.risk_set import build
from kvhelpers.hazard.scrutiny import (
    PUBLISHED,
    PUBLISHED_HORIZONS,
    VARIED_HORIZONS,
    _scored,
    _step,
    make_scrutiny,
    whole_runs,
)
from kvhelpers.paths import samples_dir

FAMILIES, FEW = ("signals", "repetition"), 8


@pytest.fixture(scope="module")
def results():
    chosen = ("none", "knorm 0.5", "random 0.625", "tova 0.75")
    return [r for r in finished_results("002-compression-sweep", samples_dir()) if r.label in chosen]


@pytest.fixture(scope="module")
def whole(results):
    return whole_runs(results, FEW)


@pytest.fixture(scope="module")
def scrutiny(results):
    return make_scrutiny(results, 10, 2, FAMILIES, FEW, progress=False)


def test_by_the_usual_definition_nothing_changes(results, whole):
    usual = whole.by(Definition())
    columns = ["event", "time", "failed"]
    assert usual.runs[columns].equals(whole.risk.runs[columns])
    at_risk, built = usual.part(usual.before_event), build(results, n_prompts=FEW)
    np.testing.assert_array_equal(at_risk.features, built.features)
    np.testing.assert_array_equal(at_risk.step, built.step)
    assert len(whole.risk.run) == sum(len(run.token_ids) - 1 for run in whole.runs) > len(built.run)


def test_published_onsets_are_later(whole):
    usual, published = whole.by(Definition()).runs, whole.by(PUBLISHED).runs
    loops = (usual["event"] == "loop") & (published["event"] == "loop")
    assert loops.any() and (published["time"][loops] > usual["time"][loops]).all()
    overruns = published["event"] == "overrun"
    assert (published["time"][overruns] == 120).all()  # of at most 160 tokens


def test_the_last_step_is_the_study_s(results, scrutiny):
    built = build(results, n_prompts=FEW)
    for horizon in PUBLISHED_HORIZONS:
        own = Evaluation(built, horizon, 2).judge(proposed(horizon, FAMILIES))
        assert scrutiny.published[-1].within[horizon] == own.auroc_within
    own = Evaluation(built, 10, 2).judge(proposed(10, FAMILIES))
    assert scrutiny.varied[0].within[10] == own.auroc_within
    assert list(scrutiny.varied[0].within) == list(VARIED_HORIZONS)


def test_pairs_of_a_fold_are_scikit_learn_s_mean_over_folds(whole):
    risk = whole.by(Definition())
    scores = np.random.default_rng(0).normal(size=len(risk.run))
    step = _step("", risk, {10: scores}, 2)
    at_risk = risk.part(risk.before_event)
    judged, values = Evaluation(at_risk, 10, 2), scores[risk.before_event]
    won, pairs = 0.0, 0
    for fold in range(2):
        used = (judged.folds_of_tokens == fold) & ~np.isnan(judged.label)
        positive = judged.label[used] == 1
        n = int(positive.sum() * (~positive).sum())
        won, pairs = won + n * roc_auc_score(positive, values[used]), pairs + n
    assert step.pooled[10].value == pytest.approx(won / pairs)


def test_stopping_on_the_reported_fold_flatters(whole):
    """In each fold the chosen round is at least as good as the last, by the AUROC of that fold."""
    risk = whole.by(Definition())
    trees = BoostedTrees(10, risk.names[:20], rounds=60)
    best, last = (_step("", risk, {10: _scored(risk, trees, 2, True, stop)}, 2) for stop in (True, False))
    assert best.pooled[10].value >= last.pooled[10].value


def test_the_best_round_is_the_best_for_the_tokens_given(results):
    risk = build(results, n_prompts=FEW)
    train = risk.run % 2 == 0
    trees = BoostedTrees(10, risk.names[:20], rounds=30).fit(risk, train)
    test = risk.part(~train)
    metrics = Evaluation(test, 10, 2).metrics
    assert metrics(trees.best_round(test)).auroc.value >= metrics(trees.score(test)).auroc.value


def test_the_oracle_is_compared_with_the_run_alone_on_compressed_runs(results, scrutiny):
    compressed = [result for result in results if not result.condition.is_baseline]
    for oracle, horizon in ((scrutiny.onsets_oracle, 10), (scrutiny.right_ends_oracle, None)):
        assert list(oracle.gain) == [PROPOSED, TREES]
        for kind, gain in oracle.gain.items():
            least, _, most = (m.auroc_within for name, m in oracle.methods.items() if name.startswith(kind))
            assert gain.value == pytest.approx(most.value - least.value)
        alone = Evaluation(build(compressed, n_prompts=FEW), horizon, 2).judge(proposed(horizon, FAMILIES))
        assert oracle.methods[f"{PROPOSED}: the run"].auroc == alone.auroc
