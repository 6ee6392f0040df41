"""Scoring token by token is scoring the table."""

import numpy as np
import pytest
from factories_risk import make_risk

from kvhelpers.errors import InputError
from kvhelpers.hazard.features import NAMES, READS, run_features
from kvhelpers.hazard.model import fit
from kvhelpers.hazard.online import OnlineScorer


def test_token_by_token_is_the_table():
    model = fit(make_risk(), 10, NAMES)
    rng = np.random.default_rng(1)
    ids = rng.integers(0, 9, 40).tolist()
    signals = {name: rng.random(40).astype(np.float32) for name in READS}
    scorer = OnlineScorer(model)
    online = [
        scorer.push(token, {name: float(signals[name][t]) for name in READS}) for t, token in enumerate(ids)
    ]
    assert online == pytest.approx(model.score(run_features(ids, signals)), abs=1e-12)
    assert np.std(online) > 0


def test_a_feature_that_is_not_known_token_by_token_is_refused():
    with pytest.raises(InputError, match="needs feature 'removed', which is not known"):
        OnlineScorer(fit(make_risk(), 10, ("removed",)))
