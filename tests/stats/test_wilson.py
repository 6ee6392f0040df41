import math

import pytest

from kvhelpers.stats.wilson import wilson


@pytest.mark.parametrize(("count", "n"), [(0, 20), (1, 20), (20, 20), (7, 13)])
def test_wilson_interval_follows_its_closed_form(count, n):
    z, p = 1.959963984540054, count / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    rate = wilson(count, n)
    assert (rate.low, rate.high) == pytest.approx((max(0, centre - half), min(1, centre + half)), abs=1e-9)
    assert (rate.count, rate.n, rate.rate) == (count, n, p)
