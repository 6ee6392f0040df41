"""The one AUROC, as a statistic of weights and as counts of pairs, agrees with scikit-learn."""

import time
from importlib import import_module

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from kvhelpers.stats import auroc, auroc_difference, estimate, pair_counts

RNG = np.random.default_rng(3)
PROMPTS = np.repeat(np.arange(30), 4)
LEVEL = np.repeat(RNG.normal(size=30), 4)
SCORES = np.round(LEVEL + RNG.normal(size=120), 1)  # rounding makes ties
POSITIVE = LEVEL + RNG.normal(size=120) > 0.5
STRATA = np.tile(["a", "b", "c", "d"], 30)


def within_strata(scores, positive, strata, weights):
    """scikit-learn's AUROC of each stratum, weighted by its pairs."""
    won = pairs = 0.0
    for stratum in set(strata):
        mine = (strata == stratum) & (weights > 0)
        of_kind = [weights[mine & (positive == kind)].sum() for kind in (True, False)]
        if all(of_kind):
            area = roc_auc_score(positive[mine], scores[mine], sample_weight=weights[mine])
            won, pairs = won + area * of_kind[0] * of_kind[1], pairs + of_kind[0] * of_kind[1]
    return won / pairs


def test_the_statistic_is_scikit_learn_s_with_and_without_weights():
    weights = RNG.integers(0, 3, size=(5, 120)).astype(float)
    expected = [roc_auc_score(POSITIVE, SCORES, sample_weight=w) for w in weights]
    assert auroc(SCORES, POSITIVE)(weights) == pytest.approx(expected)
    value = estimate(auroc(SCORES, POSITIVE), PROMPTS.astype(str)).value
    assert value == pytest.approx(roc_auc_score(POSITIVE, SCORES))


def test_within_strata_it_is_scikit_learn_s_of_each_stratum():
    weights = np.vstack([np.ones(120), RNG.integers(0, 3, size=(4, 120))])
    expected = [within_strata(SCORES, POSITIVE, STRATA, w) for w in weights]
    assert auroc(SCORES, POSITIVE, STRATA)(weights) == pytest.approx(expected)
    assert expected[0] != pytest.approx(roc_auc_score(POSITIVE, SCORES), abs=1e-4)


@pytest.mark.parametrize("strata", [None, STRATA])
def test_counts_of_pairs_are_the_statistic_for_weights_of_prompts(strata):
    won, pairs = pair_counts(SCORES, POSITIVE, PROMPTS, 30, strata)
    weights = RNG.multinomial(30, np.full(30, 1 / 30), size=6).astype(float)
    by_prompt = [(w @ won @ w) / (w @ pairs @ w) for w in weights]
    assert by_prompt == pytest.approx(auroc(SCORES, POSITIVE, strata)(weights[:, PROMPTS]))
    everything = np.full(120, "all") if strata is None else strata
    expected = within_strata(SCORES, POSITIVE, everything, np.ones(120))
    assert won.sum() / pairs.sum() == pytest.approx(expected)


def test_counts_of_pairs_do_not_depend_on_how_many_prompts_are_counted_at_once(monkeypatch):
    at_once = pair_counts(SCORES, POSITIVE, PROMPTS, 30)
    for few in (1, 100):
        monkeypatch.setattr(import_module("kvhelpers.stats.auroc"), "NUMBERS_AT_ONCE", few)
        for counts, again in zip(at_once, pair_counts(SCORES, POSITIVE, PROMPTS, 30), strict=True):
            np.testing.assert_array_equal(counts, again)


def test_without_both_kinds_it_is_undefined():
    with np.errstate(invalid="ignore"):
        assert np.isnan(auroc(SCORES, np.ones(120, dtype=bool))(np.ones((1, 120))))
    won, pairs = pair_counts(SCORES, np.ones(120, dtype=bool), PROMPTS, 30)
    assert not won.any() and not pairs.any()
    assert auroc_difference(SCORES, SCORES, np.ones(120), PROMPTS, np.zeros(120)) is None


def test_infinite_scores_tie():
    scores, positive = np.array([-np.inf, -np.inf, 1.0]), np.array([True, False, False])
    assert auroc(scores, positive)(np.ones((1, 3))) == pytest.approx([0.25])


def test_a_hundred_thousand_tokens_take_seconds():
    n = 100_000
    scores, positive = RNG.random(n), RNG.random(n) < 0.03
    prompts, strata = np.sort(RNG.integers(0, 100, n)), RNG.integers(0, 800, n)
    started = time.perf_counter()
    won, pairs = pair_counts(scores, positive, prompts, 100)
    pair_counts(scores, positive, prompts, 100, strata)
    assert time.perf_counter() - started < 10
    assert won.sum() / pairs.sum() == pytest.approx(roc_auc_score(positive, scores))
