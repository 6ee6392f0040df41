"""Paired comparisons agree with the binomial test and keep what they promise on drawn data."""

import numpy as np
import pytest
from scipy.stats import binom

from kvhelpers.stats import SignTest, adjusted, compare_counts, fewest_discordant, sign_test


def test_mcnemar_is_the_binomial_test_on_discordant_pairs():
    lost = compare_counts(8, 1, 10)
    assert (lost.only_first, lost.only_second, lost.n) == (8, 1, 10)
    assert lost.difference == pytest.approx(-0.7) and lost.p == pytest.approx(2 * (1 + 9) / 2**9)
    back = compare_counts(1, 8, 10)
    assert (back.difference, back.low, back.high) == pytest.approx((0.7, -lost.high, -lost.low))
    assert compare_counts(0, 0, 10).p == 1


def test_over_prompts_each_prompt_counts_once():
    """Three conditions that all lose the same six of ten prompts are no more evidence than one."""
    lost = [-1] * 6 + [0] * 4
    alone = compare_counts(6, 0, 10).p
    assert sign_test(lost, range(10)) == SignTest(6, 0, alone)
    assert sign_test(lost * 3, list(range(10)) * 3) == SignTest(6, 0, alone)
    assert alone > compare_counts(18, 0, 30).p


def test_a_prompt_counts_by_the_sum_of_its_runs():
    changes, prompts = [1, -1, 0, 1, 1, -1, 1, 0, -1, -1, 1], "aabbbcccdde"
    assert sign_test(changes, prompts) == SignTest(1, 2, 2 * binom.cdf(1, 3, 0.5))


def test_the_interval_is_that_of_bonett_and_price():
    """Their formula by hand, for 20 lost of 50: a = 21/52, b = 1/52."""
    lost = compare_counts(20, 0, 50)
    spread = 1.96 * ((21 + 1) / 52 - (20 / 52) ** 2) ** 0.5 / 52**0.5
    assert (lost.low, lost.high) == pytest.approx((-20 / 52 - spread, -20 / 52 + spread), abs=1e-4)


@pytest.mark.parametrize(("lost", "gained"), [(0.3, 0.05), (0.02, 0.02), (0.6, 0.0)])
def test_the_interval_covers_the_true_difference(lost, gained):
    draws = np.random.default_rng(0).multinomial(50, [lost, gained, 1 - lost - gained], size=2000)
    comparisons = [compare_counts(int(a), int(b), 50) for a, b, _ in draws]
    covered = np.mean([c.low <= gained - lost <= c.high for c in comparisons])
    assert covered >= 0.93


def test_q_values_follow_benjamini_and_hochberg():
    p = [0.001, 0.04, 0.03, 0.9]
    assert adjusted(p) == pytest.approx([0.004, 0.04 * 4 / 3, 0.04 * 4 / 3, 0.9])
    assert adjusted([]) == []


def test_six_prompts_must_change_in_one_direction():
    assert fewest_discordant() == 6
