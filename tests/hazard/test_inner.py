"""Features of a run's inside: causal, checked against the stored run, and judged by what they add."""

import numpy as np
import pytest
from factories import make_result

from kvhelpers.errors import InputError
from kvhelpers.hazard.baselines import PROPOSED, TREES
from kvhelpers.hazard.inner import SIGNALS, STORED, inner_features, read_inner_set
from kvhelpers.hazard.inner_study import ALL, ORACLE, OUTSIDE, gaining, make_inner_study, read_inner_study
from kvhelpers.hazard.splits import prompt_splits
from kvhelpers.paths import replay_path
from kvhelpers.records import EVICTED

WIDTH, ONSET = 40, 12


@pytest.fixture
def results(output):
    """Two conditions of 20 prompts; in each, every other run loops from token 12 on."""
    rng = np.random.default_rng(0)

    def made(press, shift):
        onsets = {index: ONSET for index in range(20) if (index + shift) % 2}
        entropy = {index: rng.random(30) for index in range(20)}
        return make_result(press, 0.5, [index not in onsets for index in range(20)], onsets, entropy=entropy)

    return [made("none", 0), made("knorm", 0), made("tova", 1)]


def store(result, tell, rng, record):
    """A replay of noise, in which `full_kl` tells ``tell``."""
    time = ONSET if record.failures.looping else record.n_tokens - 1
    signals = rng.normal(size=(time - 1, len(SIGNALS))).astype(np.float32)
    signals[:, SIGNALS.index("full_kl")] += tell
    entropy = result.signals()
    entropy = entropy[entropy["prompt_index"] == record.prompt_index]["entropy"].to_numpy()[1:time]
    path = replay_path("made", result.label, record.prompt_index)
    path.parent.mkdir(parents=True, exist_ok=True)
    middle = rng.normal(size=(time - 1, WIDTH)).astype(np.float16)
    gone = rng.random(len(EVICTED)).astype(np.float32)
    columns = {"signals": signals, "evicted": gone, "entropy": entropy, "middle": middle}
    np.savez(path, **columns, condition_hash=np.array(result.condition_hash))
    return path


def store_all(results):
    rng = np.random.default_rng(1)
    return [
        store(result, 3.0 * record.failures.looping, rng, record)
        for result in results[1:]
        for record in result.records
    ]


def test_no_row_knows_a_later_one():
    rng = np.random.default_rng(2)
    signals, alternatives = rng.random((40, len(SIGNALS))), rng.random((40, 2))
    gone = rng.random(len(EVICTED))
    whole = inner_features(signals, alternatives, gone)
    assert whole.shape == (40, len(STORED)) and whole.dtype == np.float32
    for end in (1, 7, 8, 33):
        np.testing.assert_array_equal(inner_features(signals[:end], alternatives[:end], gone), whole[:end])


def test_features_by_their_definitions():
    rng = np.random.default_rng(3)
    signals, alternatives = rng.random((20, len(SIGNALS))), rng.random((20, 2))
    found = dict(zip(STORED, inner_features(signals, alternatives, np.arange(7.0)).T, strict=True))
    kl, moving = (signals[:, SIGNALS.index(name)] for name in ("full_kl", "kl_previous"))
    assert np.isnan(found["sparse_full_kl"][:7]).all()  # tokens 1 to 7
    assert (found["sparse_full_kl"][7:15] == np.float32(kl[7])).all()  # token 8 is the first measured
    assert found["sparse_kl_mean"][16] == pytest.approx(kl[[7, 15]].mean())
    assert found["sparse_kl_max"][16] == pytest.approx(kl[[7, 15]].max())
    assert found["kl_previous_mean8"][10] == pytest.approx(moving[3:11].mean())
    assert found["kl_previous_std8"][10] == pytest.approx(moving[3:11].std())
    assert found["varentropy_mean32"][10] == pytest.approx(alternatives[:11, 1].mean())
    assert found["full_kl_mean8"][10] == pytest.approx(kl[3:11].mean())
    assert (found["heads_agree"] == 6).all()


def test_only_conditions_replayed_whole_are_read(results):
    paths = store_all(results)
    inner = read_inner_set(results)
    assert (
        inner.conditions == ("knorm 0.5", "tova 0.5")
        and inner.left_out == ()
        and inner.off < 1e-6
        and inner.parted == 0
    )
    assert len(inner.risk.runs) == 40 and inner.middle.shape == (len(inner.risk.run), WIDTH)
    paths[0].unlink()
    inner = read_inner_set(results)
    assert inner.conditions == ("tova 0.5",) and inner.left_out == ("knorm 0.5",)
    for path in paths[1:]:
        path.unlink()
    with pytest.raises(InputError, match="run the command replay"):
        read_inner_set(results)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"entropy": lambda old: old + 2}, "entropies differ by 2 nats"),
        ({"entropy": lambda old: old[:-1]}, "entropies differ by inf"),
        ({"condition_hash": lambda old: np.array("other")}, "of another condition"),
    ],
)
def test_a_replay_of_something_else_is_refused(results, change, reason):
    path = store_all(results)[0]
    with np.load(path) as stored:
        columns = dict(stored)
    np.savez(path, **columns | {key: make(columns[key]) for key, make in change.items()})
    with pytest.raises(InputError, match=reason):
        read_inner_set(results)


def test_components_are_fitted_on_training_prompts(results):
    store_all(results)
    inner = read_inner_set(results)
    (first, *_) = prompt_splits(inner.risk.runs, 2)
    test = first.test[inner.risk.run]
    before = inner.with_components(first).features[~test]
    inner.middle[test] += np.float16(100)  # must not matter to what the training tokens look like
    np.testing.assert_allclose(inner.with_components(first).features[~test], before, rtol=1e-4, atol=1e-4)


def test_what_tells_is_found_and_noise_is_not(results, tmp_path):
    store_all(results)
    study = make_inner_study([results], 10, 3, "do it")
    onset, right = study.asked
    assert (onset.horizon, right.horizon, onset.failures, right.not_right) == (10, None, 20, 20)
    added = {one.family: one for one in onset.added[PROPOSED]}
    assert added[OUTSIDE].gain is None
    assert added[ORACLE].within.value > 0.9 and added[ORACLE].gain.low > 0.1
    assert {one.family for one in onset.added[TREES]} == set(added)
    by_family = {one.family: one for one in onset.press_unseen}
    assert by_family[ORACLE].within.value > 0.9
    found = gaining(onset)
    assert found.oracle.family == ORACLE and found.best.family != ORACLE
    assert ALL in {one.family for one in onset.added[PROPOSED]}
    path = study.save(tmp_path / "inner.json")
    assert read_inner_study(path) == study
    path.write_text(path.read_text().replace("knorm", "tova"))
    with pytest.raises(InputError, match="no study of inner signals"):
        read_inner_study(path)
