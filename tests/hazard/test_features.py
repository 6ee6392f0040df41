"""Features know nothing of later tokens, and mean what their names say."""

import numpy as np
import pandas as pd
import pytest

from kvhelpers.errors import InputError
from kvhelpers.hazard.features import (
    FAMILIES,
    NAMES,
    READS,
    FeatureStream,
    check_causal,
    run_features,
)
from kvhelpers.records import CANARY

T = 60
BOOKKEEPING = (
    "entropy_max",
    "tokens_since_spike",
    "confident_share16",
    "entropy_change",
)  # no signal is no spike


@pytest.fixture
def run():
    rng = np.random.default_rng(0)
    signals = {name: rng.random(T).astype(np.float32) for name in READS}
    for name in CANARY:
        signals[name][[0, *range(9, T)]] = np.nan
    return rng.integers(0, 12, T).tolist(), signals


def column(features, name):
    return features[:, NAMES.index(name)]


def test_a_beginning_has_the_features_of_the_whole(run):
    ids, signals = run
    whole = run_features(ids, signals)
    assert whole.shape == (T, len(NAMES)) and len(set(NAMES)) == len(NAMES) == sum(
        map(len, FAMILIES.values())
    )
    for end in (1, 7, 33):
        part = run_features(ids[:end], {name: values[:end] for name, values in signals.items()})
        np.testing.assert_array_equal(part, whole[:end])


def test_rolling_features_are_pandas_s(run):
    ids, signals = run
    features, entropy = run_features(ids, signals), pd.Series(signals["entropy"])
    for window in (4, 32):
        rolled = entropy.rolling(window, min_periods=1)
        for what, values in (
            ("mean", rolled.mean()),
            ("max", rolled.max()),
            ("min", rolled.min()),
            ("std", rolled.std(ddof=0)),
        ):
            assert column(features, f"entropy_{what}{window}") == pytest.approx(values.to_numpy(), abs=1e-5)
    margin = pd.Series(signals["margin"]).ewm(halflife=3, adjust=False).mean()
    assert column(features, "margin_ew3") == pytest.approx(margin.to_numpy(), abs=1e-5)
    assert column(features, "entropy_mean") == pytest.approx(entropy.expanding().mean().to_numpy(), abs=1e-5)
    assert column(features, "entropy_change")[1:] == pytest.approx(entropy.diff().to_numpy()[1:], abs=1e-5)


def test_repetition_by_example():
    signals = {name: np.ones(8, dtype=np.float32) for name in READS}
    features = run_features([1, 2, 3, 1, 2, 3, 1, 9], signals)
    assert column(features, "repeated_suffix").tolist() == [0, 0, 0, 1, 2, 3, 4, 0]
    assert column(features, "repeated_suffix_period").tolist() == [0, 0, 0, 3, 3, 3, 3, 0]
    assert column(features, "gram1_seen").tolist() == [0, 0, 0, 1, 1, 1, 2, 0]
    assert column(features, "gram2_seen").tolist() == [0, 0, 0, 0, 1, 1, 1, 0]
    assert column(features, "tokens_since_new").tolist() == [0, 0, 0, 1, 2, 3, 4, 0]
    assert column(features, "distinct_share16") == pytest.approx([1, 1, 1, 3 / 4, 3 / 5, 3 / 6, 3 / 7, 4 / 8])


def test_canary_is_carried_on_after_it_was_measured(run):
    ids, signals = run
    features, kl = run_features(ids, signals), signals["canary_kl"]
    assert np.isnan(features[0, [NAMES.index(name) for name in FAMILIES["canary"]]]).all()
    assert column(features, "kl_mean")[1:9] == pytest.approx(
        pd.Series(kl[1:9]).expanding().mean().to_numpy(), abs=1e-6
    )
    assert (column(features, "kl_last")[9:] == kl[8]).all() and np.isnan(column(features, "kl_now")[9:]).all()


def test_a_feature_that_looks_ahead_is_refused(run):
    ids, signals = run
    check_causal("so far", lambda ids, signals: np.maximum.accumulate(signals["entropy"]), ids, signals)
    with pytest.raises(
        InputError, match="feature 'over all' at some token before .* changes with later tokens"
    ):
        check_causal(
            "over all", lambda ids, signals: np.full(len(ids), signals["entropy"].max()), ids, signals
        )
    with pytest.raises(InputError, match="feature 'length'"):
        check_causal("length", lambda ids, signals: np.full(len(ids), len(ids)), ids, signals)


def test_features_read_what_they_say(run):
    """Without a signal those features are missing that name it, and no other changes."""
    ids, signals = run
    whole = run_features(ids, signals)
    reads = {name: read for family in FAMILIES.values() for name, read in family.items()}
    for left_out in READS:
        part = run_features(ids, {name: values for name, values in signals.items() if name != left_out})
        for place, name in enumerate(NAMES):
            if left_out in reads[name]:
                assert np.isnan(part[:, place]).all() or name in BOOKKEEPING, name
            else:
                np.testing.assert_array_equal(part[:, place], whole[:, place], err_msg=name)


def test_a_stream_and_a_table_are_the_same(run):
    ids, signals = run
    stream = FeatureStream()
    pushed = [
        stream.push(token, {name: float(signals[name][t]) for name in READS}) for t, token in enumerate(ids)
    ]
    np.testing.assert_array_equal(np.stack(pushed), run_features(ids, signals))
