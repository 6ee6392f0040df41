"""Estimates and intervals agree with scikit-learn and scipy."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from kvhelpers.bootstrap import RESAMPLES, auroc, estimate, intervals, mean, proportion

RNG = np.random.default_rng(3)
PROMPTS = np.repeat([f"p/{i}" for i in range(30)], 4)
LEVEL = np.repeat(RNG.normal(size=30), 4)
SCORES = np.round(LEVEL + RNG.normal(size=120), 1)  # rounding makes ties
POSITIVE = LEVEL + RNG.normal(size=120) > 0.5
CELLS = np.tile(["a", "b", "c", "d"], 30)


def test_auroc_is_scikit_learn_s_with_and_without_weights():
    weights = RNG.integers(0, 3, size=(5, 120)).astype(float)
    expected = [roc_auc_score(POSITIVE, SCORES, sample_weight=w) for w in weights]
    assert auroc(SCORES, POSITIVE)(weights) == pytest.approx(expected)
    assert estimate(auroc(SCORES, POSITIVE), PROMPTS).value == pytest.approx(roc_auc_score(POSITIVE, SCORES))


def test_stratified_auroc_compares_pairs_of_the_same_stratum():
    wins = pairs = 0.0
    for one in range(120):
        for other in range(120):
            if POSITIVE[one] and not POSITIVE[other] and CELLS[one] == CELLS[other]:
                pairs += 1
                wins += (SCORES[one] > SCORES[other]) + (SCORES[one] == SCORES[other]) / 2
    assert estimate(auroc(SCORES, POSITIVE, CELLS), PROMPTS).value == pytest.approx(wins / pairs)


def test_clustered_intervals_agree_with_scipy_s_bootstrap_over_prompts():
    own, of_prompt = estimate(mean(SCORES), PROMPTS), SCORES.reshape(30, 4).mean(1)
    theirs = stats.bootstrap((of_prompt,), np.mean, method="percentile", rng=1)
    spread = own.high - own.low
    assert own.value == pytest.approx(SCORES.mean()) and (own.n, own.prompts) == (120, 30)
    assert own.low == pytest.approx(theirs.confidence_interval.low, abs=0.1 * spread)
    assert own.high == pytest.approx(theirs.confidence_interval.high, abs=0.1 * spread)
    naive = estimate(mean(SCORES), np.arange(120).astype(str))
    assert spread > 1.2 * (naive.high - naive.low)  # runs of a prompt are alike: to ignore that flatters


def test_clustered_interval_of_auroc_agrees_with_scipy_s_bootstrap():
    own = estimate(auroc(SCORES, POSITIVE), PROMPTS)

    def drawn(indices):
        units = np.concatenate([np.arange(4 * i, 4 * i + 4) for i in indices])
        return roc_auc_score(POSITIVE[units], SCORES[units])

    theirs = stats.bootstrap((np.arange(30),), drawn, vectorized=False, n_resamples=RESAMPLES, method="percentile", rng=1)
    assert own.low == pytest.approx(theirs.confidence_interval.low, abs=0.02)
    assert own.high == pytest.approx(theirs.confidence_interval.high, abs=0.02)


def test_where_there_is_nothing_to_draw_there_is_no_interval():
    assert estimate(mean([]), []) is None
    assert estimate(auroc([1.0, 2.0], [True, True]), ["a", "b"]) is None
    alone = estimate(mean([1.0, 3.0]), ["a", "a"])
    assert (alone.value, alone.low, alone.high, alone.text()) == (2.0, None, None, "2.00 [no interval]")
    rare = estimate(auroc(SCORES, np.arange(120) == 7), PROMPTS)  # most draws lack the one positive
    assert rare.low is None and 0 <= rare.value <= 1
    one, _, _ = intervals(lambda w: np.stack([w.sum(1), w.sum(1) * np.nan], axis=1), PROMPTS)
    assert one[0] == 120 and np.isnan(one[1])


def test_the_same_data_give_the_same_interval():
    assert estimate(mean(SCORES), PROMPTS) == estimate(mean(SCORES), PROMPTS)


def test_units_that_all_agree_have_wilson_s_interval_over_prompts():
    none, some = proportion(np.zeros(120), PROMPTS), proportion(SCORES > 1, PROMPTS)
    expected = stats.binomtest(0, 30).proportion_ci(method="wilson")
    assert (none.value, none.low, none.high) == (0, pytest.approx(expected.low), pytest.approx(expected.high))
    assert none.percent() == "0 % [0, 11]" and some == estimate(mean(SCORES > 1), PROMPTS)
