"""Token metrics agree with scikit-learn and with a bootstrap done the slow way."""

import numpy as np
import pytest
from scipy.stats import norm, t
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from kvhelpers.stats import auroc_difference, draws, reliability, token_metrics


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    prompts = np.repeat([f"p{i}" for i in range(12)], 50)
    label = (rng.random(600) < 0.2).astype(float)
    score = np.round(np.clip(0.3 * label + rng.random(600) * 0.6, 0, 1), 2)  # with ties
    step = np.tile(np.arange(25), 24)
    return score, label, prompts, step


def test_values_are_scikit_learn_s(data):
    score, label, prompts, step = data
    metrics = token_metrics(score, label, prompts, step)
    assert metrics.auroc.value == pytest.approx(roc_auc_score(label, score))
    assert metrics.auprc.value == pytest.approx(average_precision_score(label, score))
    assert metrics.brier.value == pytest.approx(brier_score_loss(label, score))
    assert (metrics.base_rate, metrics.tokens, metrics.positive) == (label.mean(), 600, label.sum())
    within, pairs = 0, 0
    for number in set(step):
        high, low = score[(step == number) & (label == 1)], score[(step == number) & (label == 0)]
        within += (high[:, None] > low).sum() + 0.5 * (high[:, None] == low).sum()
        pairs += len(high) * len(low)
    assert metrics.auroc_within.value == pytest.approx(within / pairs)


def test_intervals_are_those_of_drawing_whole_prompts(data):
    score, label, prompts, step = data
    metrics, rows = (
        token_metrics(score, label, prompts, step),
        {p: np.flatnonzero(prompts == p) for p in dict.fromkeys(prompts)},
    )
    aurocs, precisions = [], []
    for weights in draws(12)[:200]:
        taken = np.concatenate([np.tile(rows[p], int(w)) for p, w in zip(rows, weights, strict=True)])
        aurocs.append(roc_auc_score(label[taken], score[taken]))
        precisions.append(average_precision_score(label[taken], score[taken]))
    tail = norm.cdf(-np.sqrt(12 / 11) * t.ppf(0.975, 11))  # Hesterberg's, for 12 prompts
    assert (metrics.auprc.low, metrics.auprc.high) == pytest.approx(
        tuple(np.quantile(precisions, [tail, 1 - tail]))
    )
    assert (metrics.auroc.low, metrics.auroc.high) == pytest.approx(
        tuple(np.quantile(aurocs, [tail, 1 - tail])), abs=0.01
    )


def test_a_difference_is_of_the_same_draws(data):
    score, label, prompts, _ = data
    other = np.random.default_rng(1).random(600)
    metrics = auroc_difference(score, other, label, prompts, np.zeros(600))
    assert (
        metrics.value == pytest.approx(roc_auc_score(label, score) - roc_auc_score(label, other))
        and metrics.low > 0
    )
    _, _, _, step = data
    within = auroc_difference(score, other, label, prompts, step)
    first, second = (token_metrics(s, label, prompts, step).auroc_within.value for s in (score, other))
    assert within.value == pytest.approx(first - second)
    nothing = auroc_difference(score, score, label, prompts, np.zeros(600))
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, 0)


def test_what_is_unknown_is_left_out_and_nothing_to_tell_apart_is_none(data):
    score, label, prompts, step = data
    label[:100], score[100:150] = np.nan, np.nan
    assert token_metrics(score, label, prompts, step).tokens == 450
    nothing = token_metrics(score, np.zeros(600), prompts, step)
    assert nothing.auroc is nothing.auroc_within is nothing.auprc is None and nothing.positive == 0
    assert token_metrics(score, np.full(600, np.nan), prompts, step).brier is None


def test_reliability_of_true_probabilities_is_on_the_line():
    rng = np.random.default_rng(0)
    probability = rng.random(20000) * 0.5
    outcome = (rng.random(20000) < probability).astype(float)
    table = reliability(probability, outcome, [f"p/{k % 100}" for k in range(20000)])
    assert len(table) == 10 and table["n"].sum() == 20000
    assert (table["observed"] - table["predicted"]).abs().max() < 0.03
    covered = (table["low"] <= table["predicted"]) & (table["predicted"] <= table["high"])
    assert covered.sum() >= 8


def test_reliability_s_intervals_are_over_prompts():
    """More tokens of the same prompts, each with its prompt's outcome, make no interval narrower."""

    def widths(tokens):
        prompts = np.tile([f"p/{k}" for k in range(20)], 10 * tokens)  # each bin has all prompts
        outcome = np.tile(np.arange(20) % 2, 10 * tokens).astype(float)
        table = reliability(np.linspace(0, 1, len(prompts)), outcome, prompts)
        return (table["high"] - table["low"]).astype(float)

    np.testing.assert_allclose(widths(1), widths(50))
    assert reliability(np.full(100, 0.5), np.ones(100), ["p"] * 100)["low"].isna().all()
