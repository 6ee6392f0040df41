"""Tokens at risk end before the failure; labels by example."""

import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from factories import LENGTH, make_result, reseal

from kvhelpers.errors import InputError
from kvhelpers.hazard.events import UNSURE, Event
from kvhelpers.hazard.features import FAMILIES, NAMES
from kvhelpers.hazard.risk_set import build, read_risk_set
from kvhelpers.paths import samples_dir

LONG = 100  # tokens of a run that reaches the limit

SAMPLE = "002-compression-sweep"


def results(**changes):
    """An uncompressed condition of healthy runs, and one whose runs 0 and 1 loop from tokens 5 and 1."""
    made = {"onsets": {0: 5, 1: 1}, "entropy": {2: np.linspace(1, 0, LONG)}} | changes
    return [make_result("none", 0.0, [True] * 4), make_result("knorm", 0.5, [False] * 4, **made)]


def test_tokens_at_risk_end_before_the_event():
    risk = build(results(stops={2: "max_new_tokens"}))
    assert risk.runs["event"].tolist() == [Event.END] * 4 + [
        Event.LOOP,
        Event.LOOP,
        Event.CENSORED,
        Event.END,
    ]
    assert risk.runs["time"].tolist() == [LENGTH - 1] * 4 + [5, 1, LONG - UNSURE, LENGTH - 1]
    assert np.bincount(risk.run, minlength=8).tolist() == [LENGTH - 2] * 4 + [
        4,
        0,
        LONG - UNSURE - 1,
        LENGTH - 2,
    ]
    assert (risk.step >= 1).all() and (risk.step < risk.runs["time"].to_numpy()[risk.run]).all()
    assert risk.features.shape == (len(risk.run), len(risk.names))


def test_labels_look_as_far_as_the_horizon():
    risk = build(results(stops={2: "max_new_tokens"}))
    assert risk.label(2)[risk.run == 4].tolist() == [0, 0, 1, 1]  # tokens 1 to 4, onset at 5
    assert risk.label(1)[risk.run == 4].tolist() == [0, 0, 0, 1]
    assert not risk.label(50)[risk.run == 7].any()  # ended by itself: no failure can come
    censored = risk.label(3)[risk.run == 6]
    assert np.isnan(censored[-3:]).all() and not censored[:-3].any()


def test_own_features_are_checked():
    def so_far(ids, signals):
        return np.cumsum(signals["entropy"])

    risk = build(results(), {"so_far": so_far})
    assert "so_far" in risk.names
    with pytest.raises(InputError, match="feature 'ahead' at some token before"):
        build(results(), {"ahead": lambda ids, signals: np.full(len(ids), signals["entropy"].sum())})


def test_bad_input_gets_one_sentence():
    with pytest.raises(InputError, match="no run fails in these experiments"):
        build(results(onsets={}))
    with pytest.raises(InputError, match="there is one prompt only"):
        build([make_result("knorm", 0.5, [False], {0: 5})])
    with pytest.raises(InputError, match="feature 'entropi' is not in the risk set"):
        build(results()).columns(["entropi"])
    with pytest.raises(InputError, match="learn_from 'x' is not allowed; it is a list"):
        read_risk_set("x")
    with pytest.raises(InputError, match="n_prompts 1 is not allowed"):
        read_risk_set(["x"], n_prompts=1)
    with pytest.raises(InputError, match="experiment 'nothing' has no finished condition"):
        read_risk_set(["nothing"])


def test_results_without_a_signal_have_no_features_of_it(tmp_path):
    sample = samples_dir() / SAMPLE / "knorm" / "smollm2-135m_0.875_50p.json"
    path = tmp_path / SAMPLE / "knorm" / sample.name
    path.parent.mkdir(parents=True)
    path.write_text(sample.read_text())
    signals = pq.read_table(sample.with_suffix(".parquet"))
    pq.write_table(signals.drop_columns(["canary_kl"]), path.with_suffix(".parquet"))
    reseal(path)
    risk, _ = read_risk_set([SAMPLE], str(tmp_path), 3)
    assert set(NAMES) - set(risk.names) == set(FAMILIES["canary"])
    with pytest.raises(InputError, match="feature 'kl_now' is not in the risk set"):
        risk.columns(["kl_now"])
    path.with_suffix(".parquet").write_bytes(b"")
    with pytest.raises(InputError, match="signals file .* was changed|cannot be read"):
        read_risk_set([SAMPLE], str(tmp_path))


NEW_SIGNAL = """
import kvhelpers.records as records
records.SCALARS = {"top1_prob": "probability", "surprise": "nats"} | records.SCALARS  # another order too
from kvhelpers import frames
from kvhelpers.experiment.grid import finished_results
from kvhelpers.hazard import features
features.FAMILIES["signals"]["surprise"] = ("surprise",)
features.OWN = (*features.OWN, "surprise")
features.NAMES = (*features.OWN, *features.NAMES[len(features.OWN) - 1:])
features.READS = (*features.READS, "surprise")
from kvhelpers.hazard import family_names, read_risk_set
from kvhelpers.paths import samples_dir
risk, results = read_risk_set(["001-reproduce-failures"], None, 3)
assert "surprise" not in risk.names
assert set(family_names("rolling", "repetition", "canary")) <= set(risk.names)
assert "surprise" not in frames.tokens(results[:1])
from kvhelpers.generation.token_signals import token_signals
import torch
try:
    token_signals(torch.zeros(1, 50), torch.tensor([3]))
except KeyError as error:
    print(error, risk.features.shape)  # what is computed is found by its name
"""


def test_a_new_signal_leaves_old_samples_readable():
    run = subprocess.run([sys.executable, "-c", NEW_SIGNAL], capture_output=True, text=True, check=True)
    risk, _ = read_risk_set(["001-reproduce-failures"], None, 3)
    assert run.stdout == f"'surprise' {risk.features.shape}\n"


def test_no_run_counts_twice():
    with pytest.raises(InputError, match=f"learn_from names '{SAMPLE}' twice"):
        read_risk_set([SAMPLE, SAMPLE])
