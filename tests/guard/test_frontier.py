import numpy as np
import pytest

from kvhelpers.guard.contract import Verdict, judge
from kvhelpers.guard.frontier import best_mixture
from kvhelpers.stats import Estimate


def by_search(budgets, rates, budget):
    """The best of all mixtures of two points that hold no more, on a fine grid."""
    best = max((rate for held, rate in zip(budgets, rates, strict=True) if held <= budget), default=None)
    for one in range(len(budgets)):
        for other in range(len(budgets)):
            for share in np.linspace(0, 1, 401):
                held = share * budgets[one] + (1 - share) * budgets[other]
                rate = share * rates[one] + (1 - share) * rates[other]
                if held <= budget + 1e-9 and (best is None or rate > best):
                    best = rate
    return best


@pytest.mark.parametrize("seed", range(8))
def test_the_best_mixture_is_the_one_that_a_search_finds(seed):
    draw = np.random.default_rng(seed)
    budgets, rates = draw.uniform(1, 10, 5), draw.uniform(0, 1, 5)
    for budget in draw.uniform(budgets.min(), 11, 5):
        assert best_mixture(budgets, rates, budget) == pytest.approx(
            by_search(budgets, rates, budget), abs=0.01
        )


def test_a_budget_below_all_points_is_given_the_cheapest():
    assert best_mixture([2.0, 4.0], [0.3, 0.9], 1.0) == 0.3


def estimate(value, low, high):
    return Estimate(value, low, high, 50, 50)


@pytest.mark.parametrize(
    ("loss", "saved", "slow_down", "verdict"),
    [
        ((0.0, -0.02, 0.02), (0.4, 0.3, 0.5), 0.05, Verdict.PASS),
        ((0.0, -0.02, 0.021), (0.4, 0.3, 0.5), 0.05, Verdict.FAIL),
        ((0.0, -0.02, 0.02), (0.4, 0.2, 0.5), 0.05, Verdict.FAIL),
        ((0.0, -0.02, 0.02), (0.4, 0.3, 0.5), 0.11, Verdict.FAIL),
        ((0.0, -0.02, 0.02), (0.4, 0.3, 0.5), None, Verdict.NOT_MEASURED),
        ((0.0, -0.02, 0.05), (0.4, 0.3, 0.5), None, Verdict.FAIL),
    ],
)
def test_the_contract_is_kept_only_by_all_of_its_clauses(loss, saved, slow_down, verdict):
    assert judge(estimate(*loss), estimate(*saved), slow_down).whole == verdict
