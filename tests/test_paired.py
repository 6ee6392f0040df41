import numpy as np
import pytest
from made import make_cell
from scipy.stats import binom

from kvhelpers.paired import (
    adjusted,
    compare,
    compare_counts,
    detectable_drop,
    fewest_discordant,
    is_correct,
    loops,
    never_ends,
)


def test_mcnemar_is_the_binomial_test_on_discordant_pairs():
    first, second = make_cell("none", 0.0, [True] * 9 + [False]), make_cell("knorm", 0.5, [False] * 8 + [True, True])
    found = compare(first, second, is_correct)
    assert (found.only_first, found.only_second, found.n) == (8, 1, 10)
    assert found.difference == pytest.approx(-0.7) and found.p == pytest.approx(2 * (1 + 9) / 2**9)
    back = compare(second, first, is_correct)
    assert (back.difference, back.low, back.high) == pytest.approx((0.7, -found.high, -found.low))


def test_outcomes_are_told_apart():
    quiet = make_cell("none", 0.0, [True] * 4)
    loud = make_cell("knorm", 0.5, [True] * 4, {0: 3}, stops={1: "max_new_tokens"})
    assert compare(quiet, loud, loops).only_second == 1
    assert compare(quiet, loud, never_ends).only_second == 2


def test_only_common_prompts_are_compared():
    first, second = make_cell("none", 0.0, [True] * 5), make_cell("knorm", 0.5, [False] * 3)
    assert compare(first, second, is_correct).n == 3
    for record in second.records:
        record["prompt_id"] = "other/" + record["prompt_id"]
    assert compare(first, second, is_correct) is None


@pytest.mark.parametrize(("lost", "gained"), [(0.3, 0.05), (0.02, 0.02), (0.6, 0.0)])
def test_the_interval_covers_the_true_difference(lost, gained):
    draws = np.random.default_rng(0).multinomial(50, [lost, gained, 1 - lost - gained], size=2000)
    found = [compare_counts(int(a), int(b), 50) for a, b, _ in draws]
    covered = np.mean([one.low <= gained - lost <= one.high for one in found])
    assert covered >= 0.93


def test_points_read_with_signs():
    assert compare_counts(20, 0, 50).points() == "−40 [−53, −24]"
    assert compare_counts(0, 0, 50).points() == "+0 [−5, +5]"


def test_q_values_follow_benjamini_and_hochberg():
    p = [0.001, 0.04, 0.03, 0.9]
    assert adjusted(p) == pytest.approx([0.004, 0.04 * 4 / 3, 0.04 * 4 / 3, 0.9])
    assert adjusted([]) == []


def test_power_is_that_of_the_exact_test():
    assert fewest_discordant() == 6
    drop = detectable_drop(50)
    assert binom.sf(5, 50, drop) == pytest.approx(0.8, abs=1e-6)
    assert detectable_drop(50, 0.05) > drop > detectable_drop(100)
    assert detectable_drop(5) is None
    draws = np.random.default_rng(1).multinomial(50, [(loss := detectable_drop(50, 0.05) + 0.05), 0.05, 0.95 - loss], size=4000)
    found = [compare_counts(int(a), int(b), 50).p < 0.05 and a > b for a, b, _ in draws]
    assert np.mean(found) == pytest.approx(0.8, abs=0.02)
