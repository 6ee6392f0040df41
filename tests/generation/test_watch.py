"""The ladder of parities: what a run becomes that is acted on, beside transformers and kvpress alone."""

import dataclasses
from functools import partial

import numpy as np
import pytest
from reference import alone, generate_all, random_prompts, requests_for, with_attention

from kvhelpers.errors import InputError
from kvhelpers.generation.generate import generate
from kvhelpers.generation.prefill import Prefiller
from kvhelpers.generation.requests import Settings
from kvhelpers.generation.watch import MOST_ACTIONS, Action
from kvhelpers.presses.registry import PRESSES
from kvhelpers.presses.spec import PressSpec

NEW, BATCH = 24, 4
PROMPTS = random_prompts(6)
NONE = PressSpec("none", 0.0)


class Script:
    """Acts once when a run has so many new tokens: ``actions`` maps their number to the action."""

    def __init__(self, actions):
        self.actions, self.seen = dict(actions), []

    def look(self, tokens, signals):
        self.seen.append((len(tokens), signals))
        return self.actions.pop(len(tokens), None)


def restore(keep):
    return Action("restore", keep)


def watched(lm, spec, scripts, prompts=PROMPTS, **settings):
    """The runs of some prompts; ``scripts`` maps a prompt's place to its actions."""
    requests = [
        dataclasses.replace(request, watch=partial(Script, scripts.get(place, {})))
        for place, request in enumerate(requests_for(prompts, spec))
    ]
    runs = generate(lm, requests, Settings(NEW, BATCH, **settings))
    return sorted(runs, key=lambda run: run.index)


def tokens_of(runs):
    return [run.token_ids for run in runs]


@pytest.fixture(params=PRESSES)
def spec(request):
    return PressSpec(request.param, 0.5)


def test_a_guard_that_never_fires_is_the_press_alone(tiny, spec):
    lm = with_attention(tiny, spec)
    runs = watched(lm, spec, {})
    assert tokens_of(runs) == [
        alone(lm, prompt, spec.for_prompt(len(prompt)), place, NEW) for place, prompt in enumerate(PROMPTS)
    ]
    assert all(run.acted == () for run in runs)


def test_one_that_fires_before_the_first_token_is_no_press(tiny, spec):
    lm = with_attention(tiny, spec)
    runs = watched(lm, spec, {place: {0: restore(0)} for place in range(len(PROMPTS))})
    assert tokens_of(runs) == [alone(lm, prompt, None, 0, NEW) for prompt in PROMPTS]
    assert all(run.cache.kept_tokens == len(prompt) for run, prompt in zip(runs, PROMPTS, strict=True))


def test_a_restored_run_goes_on_as_the_full_cache_from_what_is_kept(tiny, spec):
    """Two rows fire in one step, one later after taking tokens back; the others are not touched."""
    lm = with_attention(tiny, spec)
    plain = generate_all(lm, PROMPTS, spec, NEW)
    fire = {0: (9, 9), 1: (9, 9), 3: (14, 6)}
    runs = watched(lm, spec, {place: {step: restore(keep)} for place, (step, keep) in fire.items()})
    for place, (run, before) in enumerate(zip(runs, plain, strict=True)):
        if place not in fire or len(before.token_ids) <= fire[place][0]:
            assert run.token_ids == before.token_ids and run.acted == ()
            continue
        (step, keep), past = fire[place], before.token_ids
        expected = alone(lm, [*PROMPTS[place], *past[:keep]], None, place, NEW - keep)
        assert run.token_ids == past[:keep] + expected
        (acted,) = run.acted
        assert (acted.step, acted.keep, acted.discarded) == (step, keep, tuple(past[keep:step]))
        assert acted.cache.kept_tokens == len(PROMPTS[place]) + keep
        assert all(len(values) == len(run.token_ids) for values in run.signals.values())
    assert sum(bool(run.acted) for run in runs) >= 2


def test_restoring_an_uncompressed_run_changes_nothing_and_twice_is_once(tiny, spec):
    lm = with_attention(tiny, spec)
    full, everywhere = generate_all(lm, PROMPTS, NONE, NEW), range(len(PROMPTS))
    assert tokens_of(watched(lm, NONE, {p: {7: restore(7)} for p in everywhere})) == tokens_of(full)
    once = watched(lm, spec, {p: {7: restore(7)} for p in everywhere})
    twice = watched(lm, spec, {p: {7: restore(7), 12: restore(12)} for p in everywhere})
    assert tokens_of(twice) == tokens_of(once)
    assert max(len(run.acted) for run in twice) == 2


@pytest.mark.parametrize("keep", (0, 5))
def test_relaxing_goes_on_under_the_other_press(tiny, spec, keep):
    lm = with_attention(tiny, spec)
    milder = dataclasses.replace(spec, ratio=0.25)
    before = generate_all(lm, PROMPTS, spec, NEW)
    lengths = [len(prompt) + keep for prompt in PROMPTS]
    actions = {p: {8: Action("relax", keep, milder.for_prompt(n))} for p, n in enumerate(lengths)}
    for place, run in enumerate(watched(lm, spec, actions)):
        past = before[place].token_ids
        if len(past) <= 8:
            assert run.token_ids == past
            continue
        start = [*PROMPTS[place], *past[:keep]]
        expected = alone(lm, start, milder.for_prompt(len(start)), place, NEW - keep)
        assert run.token_ids == past[:keep] + expected


def test_a_stopped_run_keeps_its_tokens_and_has_no_end(tiny):
    spec = PressSpec("knorm", 0.5)
    plain = generate_all(tiny, PROMPTS, spec, NEW)
    runs = watched(tiny, spec, {p: {6: Action("stop", 6, stop=True)} for p in range(len(PROMPTS))})
    for run, before in zip(runs, plain, strict=True):
        if len(before.token_ids) > 6:
            assert (run.token_ids, run.stop_reason) == (before.token_ids[:6], "guard")
            assert [acted.name for acted in run.acted] == ["stop"]


def test_tokens_put_behind_the_output_count_as_output(tiny):
    spec, then = PressSpec("knorm", 0.5), (7, 8, 9)
    before = generate_all(tiny, PROMPTS[:2], spec, NEW)
    runs = watched(tiny, spec, {p: {6: Action("force", 5, None, then)} for p in range(2)}, PROMPTS[:2])
    for place, (run, plain) in enumerate(zip(runs, before, strict=True)):
        kept = [*plain.token_ids[:5], *then]
        expected = alone(tiny, [*PROMPTS[place], *kept], None, place, NEW - len(kept))
        assert run.token_ids == kept + expected
        assert [len(values) for values in run.signals.values()] == [len(run.token_ids)] * len(run.signals)


def test_a_run_is_taken_up_where_it_was(tiny, spec):
    """Tokens put before the first one go on as if they had been generated, up to the same limit."""
    lm = with_attention(tiny, spec)
    full = generate_all(lm, PROMPTS, NONE, NEW)
    given = {p: {0: Action("take up", 0, None, tuple(full[p].token_ids[:5]))} for p in range(len(PROMPTS))}
    runs = watched(lm, spec, given)
    assert tokens_of(runs) == tokens_of(full)
    assert [run.stop_reason for run in runs] == [run.stop_reason for run in full]


def test_a_watcher_sees_each_token_once_with_its_signals(tiny):
    spec, scripts = PressSpec("streaming_llm", 0.5), []

    def make():
        scripts.append(Script({}))
        return scripts[-1]

    requests = [dataclasses.replace(one, watch=make) for one in requests_for(PROMPTS[:1], spec)]
    (run,) = generate(tiny, requests, Settings(NEW, BATCH, canary_tokens=3))
    seen = scripts[-1].seen
    assert [n for n, _ in seen] == list(range(len(run.token_ids)))  # the last one ended the run
    assert seen[0][1] is None
    for n, signals in seen[1:]:
        for name in ("entropy", "margin", "canary_kl"):
            assert np.array_equal(signals[name], run.signals[name][n - 1], equal_nan=True)  # the same numbers


def test_a_canary_s_full_cache_goes_with_the_action(tiny):
    """Restoring within the canary's tokens leaves no other row's canary changed."""
    spec = PressSpec("snapkv", 0.5, kwargs={"window_size": 16})
    plain = generate_all(tiny, PROMPTS, spec, NEW, canary_tokens=8)
    runs = watched(tiny, spec, {1: {4: restore(1)}}, canary_tokens=8)
    assert runs[1].token_ids == alone(tiny, PROMPTS[1], None, 1, NEW)
    for run, before in zip(runs, plain, strict=True):
        if run.index != 1:
            assert run.token_ids == before.token_ids
            # batches of other sizes round differently, as far as is promised of signals
            np.testing.assert_allclose(
                run.signals["canary_kl"], before.signals["canary_kl"], atol=1e-4, rtol=0
            )


def test_a_call_killed_in_the_middle_of_an_action_gives_the_same_when_run_again(tiny, monkeypatch):
    spec, actions = PressSpec("knorm", 0.5), {p: {7: restore(5)} for p in range(len(PROMPTS))}
    whole = watched(tiny, spec, actions)

    def killed(self, requests, again=True):
        if not again:
            raise KeyboardInterrupt
        return prefill(self, requests, again)

    prefill = Prefiller.__call__
    monkeypatch.setattr(Prefiller, "__call__", killed)
    with pytest.raises(KeyboardInterrupt):
        watched(tiny, spec, actions)
    monkeypatch.undo()
    assert tokens_of(watched(tiny, spec, actions)) == tokens_of(whole)


def test_memory_that_runs_out_in_an_action_begins_the_rows_again(tiny, monkeypatch):
    spec, actions = PressSpec("knorm", 0.5), {p: {7: restore(5)} for p in range(len(PROMPTS))}
    whole, prefill, failed = watched(tiny, spec, actions), Prefiller.__call__, []

    def out_of_memory(self, requests, again=True):
        if not again and not failed:
            failed.append(True)
            raise MemoryError("out of memory")
        return prefill(self, requests, again)

    monkeypatch.setattr(Prefiller, "__call__", out_of_memory)
    assert tokens_of(watched(tiny, spec, actions)) == tokens_of(whole) and failed


def test_a_watcher_that_never_stops_acting_ends_the_run(tiny):
    class Again:
        def look(self, tokens, signals):
            return Action("restart", 0) if tokens else None

    request = dataclasses.replace(requests_for(PROMPTS[:1], NONE)[0], watch=Again)
    (run,) = generate(tiny, [request], Settings(NEW, BATCH))
    assert run.error == f"what watches the run acted more than {MOST_ACTIONS} times"


def test_an_action_cannot_keep_more_than_there_is(tiny):
    with pytest.raises(ValueError, match="restore keeps 9 of 7 tokens"):
        watched(tiny, NONE, {0: {7: restore(9)}}, PROMPTS[:1])


def test_a_press_that_compresses_while_decoding_is_refused(tiny):
    spec = PressSpec("DecodingPress", 0.0, kwargs={"base_press": {"name": "knorm"}, "target_size": 32})
    with pytest.raises(InputError, match="compresses while decoding; no action can be taken"):
        watched(tiny, spec, {})
