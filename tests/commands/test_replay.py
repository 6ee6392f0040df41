"""Finished runs fed again: what is missing, and nothing else."""

import numpy as np
import pytest

from kvhelpers.__main__ import main
from kvhelpers.commands.replay import replay
from kvhelpers.errors import InputError
from kvhelpers.experiment.condition import make_condition
from kvhelpers.experiment.run import run_condition
from kvhelpers.paths import replay_path
from kvhelpers.records import ATTENTION, COURSE, FULL, INSIDE

VALUES = {"ratio": 0.625, "n_prompts": 4, "n_fewshot": 1, "max_new_tokens": 80, "device": "cpu"}


@pytest.fixture(autouse=True)
def loaded(stand_in, monkeypatch):
    """The stand-in, with the attention that a condition's press needs."""

    def load(condition):
        return stand_in.attending(condition.asked_attention)

    monkeypatch.setattr("kvhelpers.commands.replay.load_for", load)
    return load


@pytest.fixture
def results(output, loaded):
    presses = ({"press": "knorm"}, {"press": "observed_attention"}, {"press": "none", "ratio": 0})
    conditions = [make_condition(VALUES | press) for press in presses]  # the second with another attention
    return [run_condition(condition, loaded(condition)) for condition in conditions]


def test_replays_give_the_stored_signals_and_are_not_made_twice(results, capsys):
    assert main(["replay", "scratch", "--conditions", "knorm 0.625", "observed_attention 0.625"]) == 0
    made = int(capsys.readouterr().out.split()[0])
    assert made > 0 and replay("scratch", ["knorm 0.625", "observed_attention 0.625"]) == 0
    paths = [
        (result, index, path)
        for result in results[:2]
        for index in range(4)
        if (path := replay_path("scratch", result.label, index)).is_file()
    ]
    assert len(paths) == made and {result.label for result, *_ in paths} == {r.label for r in results[:2]}
    for result, index, path in paths:
        with np.load(path) as stored:
            tokens = result.signals()
            entropy = tokens[tokens["prompt_index"] == index]["entropy"].to_numpy()[1:]
            np.testing.assert_allclose(stored["entropy"], entropy[: len(stored["entropy"])], atol=1e-4)
            assert stored["signals"].shape[1] == len((*COURSE, *INSIDE, *ATTENTION, *FULL))
    path = paths[0][2]
    with np.load(path) as stored:
        first = dict(stored)
    path.unlink()
    assert replay("scratch", ["knorm 0.625"]) == 1
    with np.load(path) as again:
        for key, values in first.items():
            np.testing.assert_array_equal(again[key], values)
    assert replay("scratch") > 0  # the condition that was not asked for before


@pytest.fixture
def short(output, stand_in):
    """A function that runs a condition with one prompt and few tokens."""
    few = VALUES | {"n_prompts": 1, "max_new_tokens": 4, "press": "knorm"}
    return lambda **values: run_condition(make_condition(few | values), stand_in)


def test_a_condition_that_is_not_there_is_one_sentence(short):
    short()
    with pytest.raises(InputError, match="knorm 0.75"):
        replay("scratch", ["knorm 0.75"])


def test_a_repetition_penalty_is_refused(short):
    short(repetition_penalty=1.3)
    with pytest.raises(InputError, match="repetition penalty"):
        replay("scratch")


def test_a_question_fed_to_a_compressed_context_is_refused(short):
    short(compress="context", multiturn=False)
    with pytest.raises(
        InputError, match=r"condition 'knorm 0.625 \(compress context\)' has compress 'context'"
    ):
        replay("scratch")


def test_prompts_that_are_not_what_they_were_are_refused(short, stand_in, monkeypatch):
    short(max_new_tokens=80)
    changed = stand_in.tokenizer.chat_template.replace("helpful AI", "helpful  AI")
    assert changed != stand_in.tokenizer.chat_template
    monkeypatch.setattr(stand_in.tokenizer, "chat_template", changed)
    with pytest.raises(InputError, match="has other tokens .* than when it was run"):
        replay("scratch", ["knorm 0.625"])


def test_a_quantized_cache_is_refused(short):
    short(cache_type_k="fp8_e4m3")
    with pytest.raises(InputError, match="holds its cache in K fp8_e4m3; only runs whose"):
        replay("scratch")
