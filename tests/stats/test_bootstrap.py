"""Estimates and intervals agree with scikit-learn and scipy."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from kvhelpers.stats import (
    RESAMPLES,
    auroc,
    draw,
    draws,
    estimate,
    intervals,
    mean,
    percentile_ends,
    proportion,
    simultaneous_errors,
)

RNG = np.random.default_rng(3)
PROMPTS = np.repeat([f"p/{i}" for i in range(30)], 4)
LEVEL = np.repeat(RNG.normal(size=30), 4)
SCORES = np.round(LEVEL + RNG.normal(size=120), 1)  # rounding makes ties
POSITIVE = LEVEL + RNG.normal(size=120) > 0.5
EXPANDED = 1 - 2 * stats.norm.cdf(-np.sqrt(30 / 29) * stats.t.ppf(0.975, 29))  # Hesterberg's, for 30 prompts


def test_clustered_intervals_agree_with_scipy_s_bootstrap_over_prompts():
    own, of_prompt = estimate(mean(SCORES), PROMPTS), SCORES.reshape(30, 4).mean(1)
    theirs = stats.bootstrap((of_prompt,), np.mean, method="percentile", confidence_level=EXPANDED, rng=1)
    spread = own.high - own.low
    assert own.value == pytest.approx(SCORES.mean()) and (own.n, own.prompts) == (120, 30)
    assert own.low == pytest.approx(theirs.confidence_interval.low, abs=0.1 * spread)
    assert own.high == pytest.approx(theirs.confidence_interval.high, abs=0.1 * spread)
    naive = estimate(mean(SCORES), np.arange(120).astype(str))
    assert spread > 1.2 * (naive.high - naive.low)  # runs of a prompt are alike: to ignore that flatters


def test_clustered_draws_of_auroc_agree_with_scipy_s_bootstrap():
    statistic = auroc(SCORES, POSITIVE)
    _, own = draw(lambda weights: statistic(weights)[:, None], PROMPTS)
    low, high = np.quantile(own[:, 0], [0.025, 0.975])

    def drawn(indices):
        units = np.concatenate([np.arange(4 * i, 4 * i + 4) for i in indices])
        return roc_auc_score(POSITIVE[units], SCORES[units])

    theirs = stats.bootstrap(
        (np.arange(30),), drawn, vectorized=False, n_resamples=RESAMPLES, method="percentile", rng=1
    )
    assert low == pytest.approx(theirs.confidence_interval.low, abs=0.02)
    assert high == pytest.approx(theirs.confidence_interval.high, abs=0.02)
    expanded = estimate(statistic, PROMPTS)
    assert (expanded.low, expanded.high) == tuple(np.ravel(percentile_ends(own, 30)))
    assert expanded.low < low < high < expanded.high


def test_ends_are_student_s_interval_where_the_draws_are_normal_by_the_prompts_behind_each_value():
    """The bootstrap's spread of a mean is √((n − 1)/n) of its standard error."""
    counts = np.array([5, 20, 50])
    drawn = stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000)[:, None] * np.sqrt((counts - 1) / counts)
    low, high = percentile_ends(drawn, counts)
    assert np.stack([low, high]) == pytest.approx(np.stack(stats.t.interval(0.95, counts - 1)), rel=1e-3)
    low, high = percentile_ends(drawn[:, [1]] * np.sqrt(20 / 19), 10**6)
    assert (low[0], high[0]) == pytest.approx(stats.norm.interval(0.95), rel=1e-3)
    assert np.isnan(percentile_ends(drawn, 1)).all()


def test_where_there_is_nothing_to_draw_there_is_no_interval():
    assert estimate(mean([]), []) is None
    assert estimate(auroc([1.0, 2.0], [True, True]), ["a", "b"]) is None
    alone = estimate(mean([1.0, 3.0]), ["a", "a"])
    assert (alone.value, alone.low, alone.high) == (2.0, None, None)
    rare = estimate(auroc(SCORES, np.arange(120) == 7), PROMPTS)  # most draws lack the one positive
    assert rare.low is None and 0 <= rare.value <= 1
    one, _, _ = intervals(lambda w: np.stack([w.sum(1), w.sum(1) * np.nan], axis=1), PROMPTS)
    assert one[0] == 120 and np.isnan(one[1])


def test_an_interval_depends_on_the_prompts_and_not_on_the_order_of_their_runs():
    """Drawing is by prompt, in the order in which they appear: shuffling the runs within prompts changes
    nothing, another seed changes the ends a little.
    """
    usual = estimate(mean(SCORES), PROMPTS)
    shuffled = np.concatenate([RNG.permutation(np.arange(4 * i, 4 * i + 4)) for i in range(30)])
    again = estimate(mean(SCORES[shuffled]), PROMPTS[shuffled])
    assert (again.low, again.high) == pytest.approx((usual.low, usual.high), abs=1e-12)
    other = estimate(mean(SCORES), PROMPTS, seed=1)
    assert other.value == usual.value and (other.low, other.high) != (usual.low, usual.high)
    assert (other.low, other.high) == pytest.approx((usual.low, usual.high), abs=0.1)


def test_a_draw_draws_as_many_prompts_as_there_are():
    drawn = draws(30)
    assert drawn.shape == (RESAMPLES, 30) and (drawn.sum(1) == 30).all()
    assert (drawn == 0).mean() == pytest.approx((1 - 1 / 30) ** 30, abs=0.01)  # the share left out of a draw


def test_units_that_all_agree_have_wilson_s_interval_over_prompts():
    none, some = proportion(np.zeros(120), PROMPTS), proportion(SCORES > 1, PROMPTS)
    expected = stats.binomtest(0, 30).proportion_ci(method="wilson")
    assert (none.value, none.low, none.high) == (0, pytest.approx(expected.low), pytest.approx(expected.high))
    assert some == estimate(mean(SCORES > 1), PROMPTS)


def columns(values):
    return lambda weights: weights @ values / weights.sum(1, keepdims=True)


def test_simultaneous_errors_of_independent_means_agree_with_sidak_and_of_one_mean_with_its_own():
    generator, k, n = np.random.default_rng(5), 8, 400
    values = generator.normal(size=(n, k))
    prompts = [str(i) for i in range(n)]
    errors, critical = simultaneous_errors(draw(columns(values), prompts)[1], n)
    assert errors == pytest.approx(values.std(0) / np.sqrt(n), rel=0.1)
    assert critical == pytest.approx(stats.norm.ppf(1 - (1 - 0.95 ** (1 / k)) / 2), rel=0.02)
    alike = np.repeat(values[:, :1], k, axis=1)
    assert simultaneous_errors(draw(columns(alike), prompts)[1], n)[1] == pytest.approx(1.96, abs=0.02)


def test_simultaneous_errors_of_constants_are_none_and_of_one_prompt_do_not_exist():
    constant = columns(np.ones((5, 2)))
    errors, critical = simultaneous_errors(draw(constant, list("abcde"))[1], 5)
    assert errors.tolist() == [0, 0] and critical == pytest.approx(1.96, abs=0.001)
    assert np.isnan(simultaneous_errors(draw(constant, ["a"] * 5)[1], 1)[0]).all()
