"""Guesses of the next tokens cost passes, never tokens: with and without them a run is the same."""

import numpy as np
import pytest
from reference import Knowing, alone, generate_all, random_prompts

from kvhelpers.generation import attention, batch
from kvhelpers.generation.drafts import CHEAP_TOKENS, MOST, PASS_TOKENS, SURE, Drafter, draft_lengths
from kvhelpers.presses.spec import PressSpec
from kvhelpers.tasks.load import load_problems
from kvhelpers.tasks.prompts import build_prompts


def test_what_followed_the_last_occurrence_is_drafted():
    assert Drafter([1, 2, 3, 9, 1, 2, 3, 7, 8, 1, 2, 3]).draft(3) == [7, 8, 1]
    assert Drafter([1, 2, 3, 4]).draft(3) == []


def test_the_longest_suffix_decides():
    assert Drafter([5, 1, 2, 8, 6, 1, 2, 9, 5, 1, 2]).draft(1) == [8]


def test_a_draft_that_reaches_the_present_goes_on_with_itself():
    assert Drafter([7, 1, 2, 1, 2, 1, 2]).draft(5) == [1, 2, 1, 2, 1]


def test_a_streak_counts_right_guesses_of_the_answer_in_a_row():
    drafter, answer = Drafter([1, 2, 3, 4, 5] * 3), [1, 2, 3, 8, 9, 8, 9, 8, 9]
    streaks = []
    for token in answer:
        drafter.append(token)
        streaks.append(drafter.streak)
    assert streaks == [0, 0, 0, 0, 0, 0, 0, 1, 2]  # what repeats the prompt is no loop
    drafter.append(7)
    assert drafter.streak == 0


def test_drafts_are_long_where_rows_loop_or_are_few():
    assert draft_lengths([0] * 64, "cpu") == [0] * 64
    assert draft_lengths([SURE - 1, SURE, 2000] + [0] * 13, "cpu") == [0, SURE // 2, 15] + [0] * 13
    assert draft_lengths([0, 0], "cpu") == [CHEAP_TOKENS["cpu"] // 2 - 1] * 2
    assert draft_lengths([0, 2000], "cuda") == [CHEAP_TOKENS["cuda"] // 2 - 1, MOST]
    assert sum(draft_lengths([2000] * 64, "cpu")) + 64 <= PASS_TOKENS["cpu"]
    assert draft_lengths([2000] * 2000, "cuda") == [0] * 2000


SPECS = (
    PressSpec("none", 0.0),
    PressSpec("snapkv", 0.75, kwargs={"window_size": 8}),
    PressSpec("PyramidKVPress", 0.5, kwargs={"window_size": 8}),
    PressSpec("AdaKVPress", 0.5, kwargs={"press": {"name": "knorm"}}),
)


DECODING = {"base_press": {"name": "knorm"}, "compression_interval": 8, "target_size": 40}


@pytest.fixture
def known(tiny, monkeypatch):
    """Gives the runs of some prompts without drafts, and with the drafts of one who knows them."""

    def runs(spec, prompts, n=60, batch_size=4, **settings):
        plain = generate_all(tiny, prompts, spec, n, batch_size, drafts=False, **settings)
        answers = {tuple(prompts[run.index]): run.token_ids for run in plain}
        monkeypatch.setattr(batch, "Drafter", lambda prompt: Knowing(prompt, answers))
        return plain, generate_all(tiny, prompts, spec, n, batch_size, **settings)

    return runs


def assert_alike(plain, drafted):
    for one, other in zip(plain, drafted, strict=True):
        assert one.token_ids == other.token_ids and one.stop_reason == other.stop_reason
        for name, values in one.signals.items():
            if not name.endswith("_id"):  # of two like tokens either may come first
                np.testing.assert_allclose(other.signals[name], values, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
@pytest.mark.parametrize("batch_size", (1, 3))
def test_runs_are_the_same_with_and_without_drafts(tiny, known, spec, batch_size):
    prompts = random_prompts(8)
    plain, drafted = known(spec, prompts, batch_size=batch_size)
    assert_alike(plain, drafted)
    for run, prompt in zip(drafted, prompts, strict=True):
        assert run.token_ids == alone(tiny, prompt, spec.for_prompt(len(prompt)), run.index, 60)
        made = run.drafting
        # the first token is the prefill's; a run that stops inside a pass leaves accepted tokens unused
        assert 1 + made.passes <= len(run.token_ids) <= 1 + made.passes + made.accepted
    assert 0 < sum(run.drafting.accepted for run in drafted) < sum(run.drafting.drafted for run in drafted)
    assert all(run.drafting.drafted == 0 for run in plain)


@pytest.mark.parametrize("most_padded", (0, 1.5, 1e9))
@pytest.mark.parametrize("canary_tokens", (0, 6))
def test_rows_that_draft_and_read_a_common_beginning_together_are_the_same(
    tiny, known, monkeypatch, most_padded, canary_tokens
):
    shared, merged = [], attention._merged
    monkeypatch.setattr(attention, "MOST_PADDED", most_padded)
    monkeypatch.setattr(attention, "_merged", lambda *parts: shared.append(1) or merged(*parts))
    beginning = random_prompts(1)[0]
    prompts = [beginning + prompt for prompt in random_prompts(8)]
    plain, drafted = known(SPECS[0], prompts, 40, 8, canary_tokens=canary_tokens)
    assert_alike(plain, drafted)
    for run, prompt in zip(drafted, prompts, strict=True):
        assert run.token_ids == alone(tiny, prompt, None, run.index, 40)
    assert shared and sum(run.drafting.accepted for run in drafted) > 40


def test_a_run_stops_inside_a_pass_where_it_stops_alone(tiny, known):
    stops = {run.token_ids[20] for run in generate_all(tiny, random_prompts(8), SPECS[0], 60)}
    object.__setattr__(tiny, "stop_ids", tiny.stop_ids | stops)
    try:
        plain, drafted = known(SPECS[0], random_prompts(8))
    finally:
        object.__setattr__(tiny, "stop_ids", tiny.stop_ids - stops)
    assert_alike(plain, drafted)
    assert {run.stop_reason for run in drafted} >= {"eos"}


def test_the_canary_is_that_of_a_run_without_drafts(known):
    plain, drafted = known(PressSpec("knorm", 0.5), random_prompts(6), canary_tokens=6)
    assert_alike(plain, drafted)
    assert {np.isfinite(run.signals["canary_kl"]).sum() for run in drafted} == {6}
    assert all(run.drafting.accepted for run in drafted)


def test_the_embedded_model_drafts_its_own_loops(embedded):
    problems = load_problems("onestep", 4, 2, seed=42)
    prompts = [prompt.token_ids for prompt in build_prompts(*problems, embedded.tokenizer)]
    spec = PressSpec("snapkv", 0.875)
    drafted, plain = (generate_all(embedded, prompts, spec, 96, drafts=drafts) for drafts in (True, False))
    assert_alike(plain, drafted)
    assert sum(run.drafting.passes for run in drafted) < sum(run.drafting.passes for run in plain) / 3


@pytest.mark.parametrize(
    ("spec", "settings"),
    [
        (PressSpec("none", 0.0), {"repetition_penalty": 1.2}),
        (PressSpec("none", 0.0), {"drafts": False}),
        (PressSpec("DecodingPress", 0.0, kwargs=DECODING), {}),
    ],
    ids=("penalty", "told not to", "cut while decoding"),
)
def test_nothing_is_drafted(tiny, spec, settings):
    for run in generate_all(tiny, random_prompts(6), spec, 30, **settings):
        assert run.drafting.drafted == 0 and run.drafting.passes == len(run.token_ids) - 1


def test_rows_that_attend_one_by_one_and_padded_rows_are_alike(known, monkeypatch):
    for most_padded in (0.0, 1e9):
        monkeypatch.setattr(attention, "MOST_PADDED", most_padded)
        assert_alike(*known(SPECS[3], random_prompts(8), batch_size=8))
