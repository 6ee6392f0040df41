"""How often intervals hold the truth in simulated experiments is what logs and glossary say."""

import re

import numpy as np
import pytest
from interval_coverage import CASES, Case, covered, expanded, percentile

from kvhelpers.paths import REPOSITORY

EXPERIMENTS = 2000
OWN = "expanded percentile (this package)"


def told(path):
    """The coverage in percent that a text tells by number of prompts: the lowest and highest statistic."""
    text = " ".join((REPOSITORY / path).read_text(encoding="utf-8").split())
    found = re.search(r"(\d+) to (\d+) % (?:of simulated ones )?hold the truth with (\d+) prompts.*?(\d+) to "
                      r"(\d+) % with (\d+), and (\d+) to (\d+) % with (\d+)", text)  # fmt: skip
    numbers = list(map(int, found.groups()))
    return {prompts: (low, high) for low, high, prompts in zip(*[iter(numbers)] * 3, strict=True)}


@pytest.mark.slow
def test_what_the_glossary_says_of_coverage_is_what_the_simulation_gives():
    for prompts, ends in told("docs/glossary.md").items():
        shares = [covered(case, prompts, EXPERIMENTS, OWN) for case in CASES]
        assert (round(100 * min(shares)), round(100 * max(shares))) == ends
    log = (REPOSITORY / "experiments" / "001-reproduce-failures.md").read_text(encoding="utf-8")
    low, _ = told("docs/glossary.md")[20]
    assert f"with 20, as few as {low} % of simulated ones hold the truth" in log


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_interval_is_near_its_level_and_not_much_wider_than_percentiles(case):
    for prompts, least in ((20, 0.86), (50, 0.88), (100, 0.91)):
        own, plain = (covered(case, prompts, EXPERIMENTS, method) for method in (OWN, "percentile"))
        assert own >= least
        assert plain <= own <= plain + 0.03


def test_intervals_of_normal_means_hold_as_often_as_theory_says():
    """With few prompts the percentiles' interval is one of the normal distribution, with a spread too small
    by √((n − 1)/n): what it holds follows from Student's distribution. The package's holds 95 % with 20
    prompts and nearly so with 7.
    """
    from scipy.stats import norm, t

    case = Case("normal", 0.0, lambda rng, shape: (rng.normal(0, 1, shape), np.ones(shape)))
    for n in (5, 20):
        theory = 1 - 2 * t.sf(norm.ppf(0.975) * np.sqrt((n - 1) / n), n - 1)
        assert covered(case, n, 4000, "percentile") == pytest.approx(theory, abs=0.02)
    assert covered(case, 20, 4000, OWN) == pytest.approx(0.95, abs=0.01)
    assert covered(case, 7, 4000, OWN) == pytest.approx(0.945, abs=0.015)


def test_a_correction_widens_and_an_agreed_share_has_wilson_s_interval():
    values = np.random.default_rng(0).normal(size=(3, 10))
    (low, high), (lower, higher) = (method(values, np.ones_like(values)) for method in (percentile, expanded))
    assert (lower < low).all() and (high < higher).all()
    agreed = Case("agreed", 0.9, lambda rng, shape: (np.ones(shape), np.ones(shape)), share=True)
    assert covered(agreed, 20, 5, OWN) == 1.0
    assert covered(agreed, 200, 5, OWN) == 0.0
