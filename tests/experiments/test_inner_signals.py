"""013: features of a run's inside are causal, checked against the stored run, and judged by what they add."""

import runpy

import numpy as np
import pytest
from factories import make_result

from kvhelpers import frames
from kvhelpers.errors import InputError
from kvhelpers.experiment.condition import make_condition
from kvhelpers.experiment.grid import finished_results
from kvhelpers.experiment.run import run_condition
from kvhelpers.hazard.splits import prompt_splits
from kvhelpers.paths import REPOSITORY, experiment_script, figures_dir, replay_path, samples_dir
from kvhelpers.records import EVICTED

NAME, WIDTH, ONSET = "013-inner-signals", 40, 12
SCRIPT = runpy.run_path(str(experiment_script(NAME)))
SIGNALS, STORED, inside_of = SCRIPT["SIGNALS"], SCRIPT["STORED"], SCRIPT["inside_of"]
KEY = ["question", "subject", "metric"]
L = "knorm 0.625"


@pytest.fixture
def results(output):
    """Two conditions of 20 prompts; in each, every other run loops from token 12 on."""
    rng = np.random.default_rng(0)

    def made(press, shift):
        onsets = {index: ONSET for index in range(20) if (index + shift) % 2}
        entropy = {index: rng.random(30) for index in range(20)}
        return make_result(press, 0.5, [index not in onsets for index in range(20)], onsets, entropy=entropy)

    return [made("knorm", 0), made("tova", 1)]


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


@pytest.fixture
def paths(results):
    rng = np.random.default_rng(1)
    runs = [(result, record) for result in results for record in result.records]
    return [store(result, 3.0 * record.failures.looping, rng, record) for result, record in runs]


def test_no_row_knows_a_later_one():
    rng = np.random.default_rng(2)
    signals, alternatives = rng.random((40, len(SIGNALS))), rng.random((40, 2))
    gone = rng.random(len(EVICTED))
    whole = SCRIPT["features_of"](signals, alternatives, gone)
    assert whole.shape == (40, len(STORED)) and whole.dtype == np.float32
    for end in (1, 7, 8, 33):
        part = SCRIPT["features_of"](signals[:end], alternatives[:end], gone)
        np.testing.assert_array_equal(part, whole[:end])


def test_features_by_their_definitions():
    rng = np.random.default_rng(3)
    signals, alternatives = rng.random((20, len(SIGNALS))), rng.random((20, 2))
    table = SCRIPT["features_of"](signals, alternatives, np.arange(7.0))
    found = dict(zip(STORED, table.T, strict=True))
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


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"entropy": lambda old: old + 2}, "entropies differ by 2 nats"),
        ({"entropy": lambda old: old[:-1]}, "entropies differ by inf"),
        ({"condition_hash": lambda old: np.array("other")}, "of another condition"),
    ],
)
def test_a_replay_of_something_else_is_refused(results, paths, change, reason):
    with np.load(paths[0]) as stored:
        columns = dict(stored)
    np.savez(paths[0], **columns | {key: make(columns[key]) for key, make in change.items()})
    with pytest.raises(InputError, match=reason):
        inside_of(results)


def test_components_are_fitted_on_training_prompts(results, paths):
    inner = inside_of(results)
    assert len(inner.risk.runs) == 40 and inner.middle.shape == (len(inner.risk.run), WIDTH)
    assert inner.off < 1e-6 and inner.parted == 0
    (first, *_) = prompt_splits(inner.risk.runs, 2)
    test = first.test[inner.risk.run]
    before = inner.with_components(first).features[~test]
    inner.middle[test] += np.float16(100)  # must not matter to what the training tokens look like
    np.testing.assert_allclose(inner.with_components(first).features[~test], before, rtol=1e-4, atol=1e-4)


def test_what_tells_is_found_and_noise_is_not(results, paths, output):
    long = SCRIPT["with_counts"](frames.long_frame(SCRIPT["rows_of"]("made", inside_of(results), 10, 3)))
    at = long.set_index(KEY)
    for kind in ("logistic hazard", "press not seen"):  # trees need more tokens
        assert at["estimate"]["made, onset within 10", "oracle", f"within, {kind}"] > 0.9
        assert at["verdict"]["made, onset within 10", "oracle", f"gain, {kind}"] == "higher"
    assert at["estimate"]["made, onset within 10", "data", "failures"] == 20
    assert at["estimate"]["all", "families without the oracle", "gains"] == 3 * 7
    log = SCRIPT["write_log"]("made", long).read_text()
    assert "| oracle | " in log and (figures_dir("made") / "gains.svg").is_file()
    assert frames.read_long("made")[KEY].equals(long[KEY])


def test_replays_that_are_missing_are_made_and_the_others_kept(output, embedded):
    values = {"n_prompts": 4, "n_fewshot": 4, "max_new_tokens": 80, "device": "cpu", "ratio": 0.625}
    for press in ("knorm", "random"):
        run_condition(make_condition(values | {"press": press}), embedded)
    run_condition(make_condition(values | {"press": "none", "ratio": 0}), embedded)
    one, both = ([result.label for result in SCRIPT["replayed"]("scratch", labels)] for labels in ([L], []))
    assert one == [L] and sorted(both) == [L, "random 0.625"]
    times = {path: path.stat().st_mtime_ns for path in replay_path("scratch", L, 0).parent.glob("*.npz")}
    inner = inside_of(SCRIPT["replayed"]("scratch", [L]))
    assert inner.off < 1e-3 and times == {path: path.stat().st_mtime_ns for path in times}


def test_what_is_committed_is_of_the_samples_runs(output):
    at = frames.read_long(NAME).set_index(KEY)["estimate"]
    for experiment, labels in SCRIPT["SOURCES"].items():
        results = finished_results(experiment, samples_dir())
        used = [result for result in results if result.label in labels or not labels]
        used = [r for r in used if r.condition.press != "none" and not r.is_invalid]
        runs = sum(len(result.records) for result in used)
        assert at[f"{experiment}, onset within 10", "data", "runs"] == runs
    long = frames.read_long(NAME)
    counted = SCRIPT["with_counts"](long[:-3])["estimate"].to_numpy()
    np.testing.assert_array_equal(counted, long["estimate"].to_numpy())
    text = (REPOSITORY / "experiments" / f"{NAME}.md").read_text()
    assert SCRIPT["write_log"](NAME).read_text() == text


def test_a_study_without_runs_is_one_sentence(output, monkeypatch):
    script = str(experiment_script(NAME))
    for words, sentence in (([], "has no experiment to read"), (["nothing"], "has no finished condition")):
        monkeypatch.setattr("sys.argv", [script, "mine", *words])
        with pytest.raises(SystemExit, match=f"^error: .*{sentence}[^\n]*$"):
            runpy.run_path(script, run_name="__main__")
