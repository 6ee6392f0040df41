"""Tokens at risk end before the failure; events and labels by example."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from made import LENGTH, make_cell

from kvhelpers.cell import run_cell
from kvhelpers.config import make_config
from kvhelpers.errors import InputError
from kvhelpers.riskset import CENSORED, END, LOOP, OVERRUN, UNSURE, build, event_of, read_risk_set

LONG = 100  # tokens of a run that reaches the limit


def cells(**changes):
    """An uncompressed cell of healthy runs, and one whose runs 0 and 1 loop from tokens 5 and 1."""
    made = {"onsets": {0: 5, 1: 1}, "entropy": {2: np.linspace(1, 0, LONG)}} | changes
    return [make_cell("none", 0.0, [True] * 4), make_cell("knorm", 0.5, [False] * 4, **made)]


def test_tokens_at_risk_end_before_the_event():
    risk = build(cells(stops={2: "max_new_tokens"}))
    assert risk.runs["event"].tolist() == [END] * 4 + [LOOP, LOOP, CENSORED, END]
    assert risk.runs["time"].tolist() == [LENGTH - 1] * 4 + [5, 1, LONG - UNSURE, LENGTH - 1]
    assert np.bincount(risk.run, minlength=8).tolist() == [LENGTH - 2] * 4 + [4, 0, LONG - UNSURE - 1, LENGTH - 2]
    assert (risk.step >= 1).all() and (risk.step < risk.runs["time"].to_numpy()[risk.run]).all()
    assert risk.features.shape == (len(risk.run), len(risk.names))


def test_labels_look_as_far_as_the_horizon():
    risk = build(cells(stops={2: "max_new_tokens"}))
    assert risk.label(2)[risk.run == 4].tolist() == [0, 0, 1, 1]  # tokens 1 to 4, onset at 5
    assert risk.label(1)[risk.run == 4].tolist() == [0, 0, 0, 1]
    assert not risk.label(50)[risk.run == 7].any()  # ended by itself: no failure can come
    censored = risk.label(3)[risk.run == 6]
    assert np.isnan(censored[-3:]).all() and not censored[:-3].any()


def test_an_answer_that_does_not_end_the_run_is_an_overrun():
    text = "So it is 4. #### 4 And then Tom has more and more and more"
    record = {"failures": {"looping": False, "loop_onset": None}, "n_tokens": 40, "text": text, "stop_reason": "max_new_tokens"}
    ends = np.minimum(np.arange(1, 41), len(text))  # a token a character
    answered = text.index("4 And")  # its token is the answer's last
    assert event_of(record, ends) == (OVERRUN, answered + 1)
    assert event_of(record | {"n_tokens": 30}, ends[:30]) == (CENSORED, 0)  # has not gone on long enough
    looping = record | {"failures": {"looping": True, "loop_onset": 3}}
    assert event_of(looping, ends) == (LOOP, 3)
    assert event_of(record | {"text": "no answer", "stop_reason": "eos"}, ends) == (END, 39)


def test_own_features_are_checked():
    def so_far(ids, signals):
        return np.cumsum(signals["entropy"])

    risk = build(cells(), {"so_far": so_far})
    assert "so_far" in risk.names
    with pytest.raises(InputError, match="feature 'ahead' at some token before"):
        build(cells(), {"ahead": lambda ids, signals: np.full(len(ids), signals["entropy"].sum())})


def test_bad_input_gets_one_sentence():
    with pytest.raises(InputError, match="no run fails in these experiments"):
        build(cells(onsets={}))
    with pytest.raises(InputError, match="there is one prompt only"):
        build([make_cell("knorm", 0.5, [False], {0: 5})])
    with pytest.raises(InputError, match="feature 'entropi' is not in the risk set"):
        build(cells()).columns(["entropi"])
    with pytest.raises(InputError, match="learn_from 'x' is not allowed; it is a list"):
        read_risk_set("x")
    with pytest.raises(InputError, match="n_prompts 1 is not allowed"):
        read_risk_set(["x"], n_prompts=1)
    with pytest.raises(InputError, match="experiment 'nothing' has no finished cell"):
        read_risk_set(["nothing"])


def test_an_onset_that_cannot_show_yet_is_not_taken_for_health():
    """A run that starts to repeat itself near the limit, too late for a third cycle, has no label there."""
    text = {"failures": {"looping": False, "loop_onset": None}, "text": "no answer", "stop_reason": "max_new_tokens"}
    assert event_of(text | {"n_tokens": 160}, np.arange(160)) == (CENSORED, 160 - UNSURE)
    assert event_of(text | {"n_tokens": 160, "stop_reason": "eos"}, np.arange(160)) == (END, 159)


def test_results_without_a_column_are_named(output, embedded):
    config = make_config({"experiment": "old", "press": "none", "n_prompts": 2, "n_fewshot": 1, "max_new_tokens": 4})
    signals = run_cell(config, embedded).path.with_suffix(".parquet")
    pq.write_table(pq.read_table(signals).drop_columns(["canary_kl"]), signals)
    with pytest.raises(InputError, match="signals file .* has no column 'canary_kl'"):
        read_risk_set(["old"])
