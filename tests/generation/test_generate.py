import copy
import dataclasses
from dataclasses import replace
from weakref import WeakKeyDictionary

import numpy as np
import pytest
import torch
from kvpress import KnormPress
from reference import alone, generate_all, kvpress_kept, random_prompts, requests_for, with_attention

from kvhelpers.errors import InputError
from kvhelpers.generation import attention, batched_cache, self_check
from kvhelpers.generation.batched_cache import BatchedCache
from kvhelpers.generation.choose import Chooser
from kvhelpers.generation.generate import generate
from kvhelpers.generation.passes import Passes
from kvhelpers.generation.requests import Request, Settings
from kvhelpers.generation.rows import Row
from kvhelpers.generation.self_check import check_model
from kvhelpers.presses.registry import ENTRIES, PRESSES
from kvhelpers.presses.spec import PressSpec
from kvhelpers.tasks.load import load_problems
from kvhelpers.tasks.prompts import build_prompts

RATIOS = (0.25, 0.75)
MATRIX = [("none", 0.0), *((name, ratio) for name in PRESSES for ratio in RATIOS)]
HEADWISE = {"press": {"name": "knorm"}}


def assert_exact(lm, prompts, spec, max_new_tokens, batch_size):
    lm = with_attention(lm, spec)
    for prompt, result in zip(
        prompts, generate_all(lm, prompts, spec, max_new_tokens, batch_size), strict=True
    ):
        press = spec.for_prompt(len(prompt))
        assert result.token_ids == alone(lm, prompt, press, result.index, max_new_tokens)
        if press is not None:
            assert result.cache.kept_tokens == kvpress_kept(lm, prompt, press, result.index)
            assert (
                result.cache.cache_bytes * result.cache.prompt_tokens
                == result.cache.full_bytes * result.cache.kept_tokens
            )


@pytest.mark.parametrize(("name", "ratio"), MATRIX)
def test_tokens_and_kept_tokens_are_those_of_generate_alone(tiny, name, ratio):
    assert_exact(tiny, random_prompts(6), PressSpec(name, ratio), max_new_tokens=24, batch_size=4)


def test_a_run_s_report_says_how_much_of_its_question_is_kept(tiny):
    """StreamingLLM keeps the end."""
    spec, prompts = PressSpec("streaming_llm", 0.5), random_prompts(2)
    for before, kept in ((8, 1.0), (60, 0.0)):
        requests = [
            replace(request, question=(len(prompt) - before, len(prompt) - before + 8))
            for request, prompt in zip(requests_for(prompts, spec), prompts, strict=True)
        ]
        runs = generate(tiny, requests, Settings(2, batch_size=2))
        assert [run.cache.question_kept for run in runs] == [kept, kept]


@pytest.mark.slow
@pytest.mark.parametrize("ratio", (0.5, 0.875))
@pytest.mark.parametrize("name", PRESSES)
def test_embedded_model_is_exact_on_16_prompts(embedded, name, ratio):
    prompts = [
        p.token_ids for p in build_prompts(*load_problems("onestep", 16, 4, seed=42), embedded.tokenizer)
    ]
    assert_exact(embedded, prompts, PressSpec(name, ratio), max_new_tokens=64, batch_size=16)


@pytest.mark.parametrize("name", ("none", "snapkv"))
def test_embedded_model_is_exact(embedded, name):
    prompts = [
        p.token_ids for p in build_prompts(*load_problems("onestep", 2, 1, seed=42), embedded.tokenizer)
    ]
    assert_exact(
        embedded, prompts, PressSpec(name, 0.0 if name == "none" else 0.3), max_new_tokens=12, batch_size=2
    )


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [("AdaKVPress", HEADWISE), ("PyramidKVPress", {"window_size": 8}), ("ThinKPress", None)],
)
def test_presses_that_differ_by_head_or_layer_are_exact_too(tiny, name, kwargs):
    if name == "ThinKPress":
        with pytest.raises(InputError, match="compression ratio"):
            PressSpec(name, 0.5).check_build()
        return
    spec = PressSpec(name, 0.5, kwargs=kwargs)
    for result, prompt in zip(
        generate_all(tiny, random_prompts(4), spec, 16), random_prompts(4), strict=True
    ):
        assert result.token_ids == alone(tiny, prompt, spec.for_prompt(len(prompt)), result.index, 16)
        assert result.cache.kept_tokens < result.cache.prompt_tokens


@pytest.mark.parametrize("name", ("none", "knorm", "snapkv", "observed_attention"))
def test_batch_size_does_not_matter(tiny, name):
    spec, prompts = PressSpec(name, 0.0 if name == "none" else 0.5), random_prompts(12)
    lm = with_attention(tiny, spec)
    singly, *batched = (generate_all(lm, prompts, spec, 20, size) for size in (1, 5, 12))
    for runs in batched:
        for alone_, together in zip(singly, runs, strict=True):
            assert alone_.token_ids == together.token_ids and alone_.stop_reason == together.stop_reason
            for signal, values in alone_.signals.items():
                if not signal.endswith("_id"):  # of two like tokens either may come first
                    np.testing.assert_allclose(values, together.signals[signal], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ("none", *PRESSES))
def test_prompts_of_very_different_lengths_in_batches_of_any_size_have_the_same_tokens(tiny, name):
    """2 to 300 tokens beyond the longest window; random weights, so that a shifted position would show."""
    draw, lengths = torch.Generator().manual_seed(2), (66, 371, 70, 130, 68, 250, 90, 67, 300, 66)
    prompts = [torch.randint(3, 300, (length,), generator=draw).tolist() for length in lengths]
    spec = PressSpec(name, 0.0 if name == "none" else 0.5)
    lm = with_attention(tiny, spec)
    first, *others = ([r.token_ids for r in generate_all(lm, prompts, spec, 12, size)] for size in (1, 4))
    assert others == [first]


@pytest.mark.parametrize("size", (3, 4, 9))
def test_rows_that_read_their_common_beginning_together_get_what_each_gets_alone(tiny, monkeypatch, size):
    draw, shared = torch.Generator().manual_seed(5), []
    ending = lambda length: torch.randint(3, 300, (length,), generator=draw).tolist()  # noqa: E731
    beginning = ending(90)
    prompts = [beginning + ending(length) for length in (1, 40, 3, 17, 90, 5, 2, 60, 7)]
    merged = attention._merged
    monkeypatch.setattr(attention, "_merged", lambda *parts: shared.append(1) or merged(*parts))
    runs = generate_all(tiny, prompts, PressSpec("none", 0.0), 20, size, drafts=False)
    assert bool(shared) == (size >= batched_cache.SHARED_FROM)
    for run, prompt in zip(runs, prompts, strict=True):
        (single,) = generate_all(tiny, [prompt], PressSpec("none", 0.0), 20)
        assert run.token_ids == alone(tiny, prompt, None, 0, 20) == single.token_ids
        for signal, values in single.signals.items():
            if not signal.endswith("_id"):
                np.testing.assert_allclose(values, run.signals[signal], atol=1e-4, rtol=0)


def test_rows_that_a_press_cuts_while_decoding_read_nothing_together(tiny):
    beginning = random_prompts(1)[0][:60]
    prompts = [beginning + prompt[:20] for prompt in random_prompts(5)]
    base = {"base_press": {"name": "streaming_llm"}, "compression_interval": 4, "target_size": 70}
    spec = PressSpec("DecodingPress", 0.0, kwargs=base)
    for run, prompt in zip(generate_all(tiny, prompts, spec, 24, 5), prompts, strict=True):
        assert run.compressions
        assert run.token_ids == alone(tiny, prompt, spec.for_prompt(len(prompt)), run.index, 24)


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
@pytest.mark.parametrize("name", ("none", "knorm", "snapkv", "observed_attention", "expected_attention"))
def test_half_precision_on_the_cpu_runs(tiny, name, dtype):
    spec = PressSpec(name, 0.0 if name == "none" else 0.5)
    half = dataclasses.replace(
        with_attention(tiny, spec), model=copy.deepcopy(tiny.model).to(dtype), dtype=str(dtype)[6:]
    )
    beginning = random_prompts(1)[0][:40]
    for result in generate_all(half, [beginning + prompt for prompt in random_prompts(4)], spec, 8):
        assert result.error is None and result.token_ids and np.isfinite(result.signals["entropy"]).all()


def test_repetition_penalty_is_that_of_generate_and_signals_stay_raw(tiny):
    prompts = random_prompts(3)
    plain = generate_all(tiny, prompts, PressSpec("none", 0.0), 12)
    for result, raw, prompt in zip(
        generate_all(tiny, prompts, PressSpec("none", 0.0), 12, repetition_penalty=1.3),
        plain,
        prompts,
        strict=True,
    ):
        assert result.token_ids == alone(tiny, prompt, None, 0, 12, repetition_penalty=1.3)
        assert result.signals["entropy"][0] == raw.signals["entropy"][0]


def test_stop_string_ends_the_run_as_in_generate(embedded):
    prompt = build_prompts(*load_problems("onestep", 1, 1, seed=3), embedded.tokenizer)[0].token_ids
    (result,) = generate_all(embedded, [prompt], PressSpec("none", 0.0), 40, stop_strings=("In total",))
    assert result.stop_reason == "stop_string"
    assert result.token_ids == alone(
        embedded, prompt, None, 0, 40, stop_strings=["In total"], tokenizer=embedded.tokenizer
    )


def test_a_stop_string_in_the_smallest_pieces_ends_the_run(tiny):
    spelt = [tiny.tokenizer.convert_tokens_to_ids(letter) for letter in "Quest"]
    chooser = Chooser(tiny, Settings(9, 1, stop_strings=("Quest",)))
    assert len(spelt) == 5 and tiny.tokenizer.decode(spelt) == "Quest"
    request = Request([3, 4], None, 0)
    rows = [Row(0, request, 0.0, None, tokens=spelt[:n]) for n in range(1, 6)]
    assert [chooser._ends_in_stop_string(row) for row in rows] == [False] * 4 + [True]


def test_stop_reasons_are_kept_apart(tiny):
    prompts = random_prompts(2)
    (first, _) = generate_all(tiny, prompts, PressSpec("none", 0.0), 5)
    assert first.stop_reason == "max_new_tokens" and len(first.token_ids) == 5
    timed_out = generate_all(tiny, prompts, PressSpec("none", 0.0), 400, timeout_s=1e-9)
    assert {r.stop_reason for r in timed_out} == {"timeout"}
    (failed, _) = generate_all(tiny, prompts, PressSpec("snapkv", 0.5, kwargs={"window_size": 400}), 5)
    assert (
        failed.stop_reason == "error"
        and "AssertionError in the prefill" in failed.error
        and failed.token_ids == []
    )


def test_end_token_ends_the_run(tiny):
    prompt = random_prompts(1)[0]
    expected = alone(tiny, prompt, None, 0, 8)
    stopping = type(tiny)(**{**vars(tiny), "stop_ids": frozenset({expected[3]})})
    (result,) = generate_all(stopping, [prompt], PressSpec("none", 0.0), 8)
    assert result.stop_reason == "eos"
    assert result.token_ids == expected[: expected.index(expected[3]) + 1]


def test_out_of_memory_halves_the_batch(tiny, monkeypatch):
    prompts, spec, sizes = random_prompts(5), PressSpec("none", 0.0), []
    expected = [r.token_ids for r in generate_all(tiny, prompts, spec, 10)]
    step = BatchedCache.step

    def limited(self, model, tokens, positions):
        sizes.append(len(tokens))
        if len(tokens) > 2:
            raise torch.OutOfMemoryError("no memory for more than two rows")
        return step(self, model, tokens, positions)

    monkeypatch.setattr(BatchedCache, "step", limited)
    runs = generate_all(tiny, prompts, spec, 10, batch_size=5)
    assert [run.token_ids for run in runs] == expected
    assert max(sizes) == 5 and sizes[-1] <= 2
    assert {run.batch_size for run in runs} == {2}  # what was used, not what was asked for


def test_kept_passes_go_before_a_prompt_fails_for_want_of_memory(tiny, monkeypatch):
    prompts, spec = random_prompts(8), PressSpec("knorm", 0.5)
    expected = [run.token_ids for run in generate_all(tiny, prompts, spec, 10)]
    passes, step = Passes(limit=10**9), BatchedCache.step

    def limited(self, model, tokens, positions):
        if len(passes.endings) > 2 or len(tokens) > 1:
            raise torch.OutOfMemoryError("no memory beside so many passes")
        return step(self, model, tokens, positions)

    monkeypatch.setattr(BatchedCache, "step", limited)
    runs = generate(tiny, requests_for(prompts, spec), Settings(10, 4), passes)
    assert [run.token_ids for run in sorted(runs, key=lambda run: run.index)] == expected
    assert not passes.keeps and not passes.endings


def test_each_run_says_how_many_rows_could_decode_beside_it(tiny, monkeypatch):
    """Four runs end before memory runs out; the other two then run one after the other."""
    prompts, spec = random_prompts(6), PressSpec("none", 0.0)
    assert {run.batch_size for run in generate_all(tiny, prompts, spec, 3, batch_size=4)} == {4}
    assert {run.batch_size for run in generate_all(tiny, prompts, spec, 3, batch_size=40)} == {6}
    step, calls = BatchedCache.step, []

    def tight_later(self, model, tokens, positions):
        calls.append(len(tokens))
        if len(calls) > 2 and len(tokens) > 1:
            raise torch.OutOfMemoryError("another program took the memory")
        return step(self, model, tokens, positions)

    monkeypatch.setattr(BatchedCache, "step", tight_later)
    runs = generate_all(tiny, prompts, spec, 3, batch_size=4)
    assert sorted(run.batch_size for run in runs) == [1, 1, 4, 4, 4, 4]
    monkeypatch.undo()
    assert [run.token_ids for run in runs] == [
        run.token_ids for run in generate_all(tiny, prompts, spec, 3, batch_size=1)
    ]


def test_a_press_is_as_new_after_memory_ran_out(tiny, monkeypatch):
    """A press that keeps notes must not carry them from the attempt that failed to the next one."""

    @dataclasses.dataclass
    class Noting(KnormPress):
        seen: int = 0

        def score(self, module, hidden_states, keys, values, attentions, kwargs):
            self.seen += 1
            scores = super().score(module, hidden_states, keys, values, attentions, kwargs)
            return scores if self.seen <= len(tiny.model.model.layers) else -scores

    (prompt,) = random_prompts(1)
    request = Request(prompt, Noting(0.5), 0)
    (expected,) = generate(tiny, [request], Settings(6, batch_size=1))
    join, calls = BatchedCache.join, []

    def once_too_little(self, *args):
        calls.append(1)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("no memory for the first attempt")
        return join(self, *args)

    monkeypatch.setattr(BatchedCache, "join", once_too_little)
    other = Request(list(range(3, 33)), None, 0)
    runs = sorted(generate(tiny, [request, other], Settings(6, batch_size=2)), key=lambda run: run.index)
    assert len(calls) > 2 and runs[0].token_ids == expected.token_ids and request.press.seen == 0


def test_a_prompt_that_never_fits_becomes_an_error(tiny, monkeypatch):
    def never(self, model, tokens, positions):
        raise torch.OutOfMemoryError("none at all")

    monkeypatch.setattr(BatchedCache, "step", never)
    results = generate_all(tiny, random_prompts(3), PressSpec("none", 0.0), 10, batch_size=2)
    assert [r.stop_reason for r in results] == ["error"] * 3 and "out of memory" in results[0].error


def test_masked_rows_of_a_padded_vocabulary_change_nothing(tiny, monkeypatch):
    """Tokens of logit -inf are never chosen; as if the vocabulary ended before them. So says the check of the
    model, too.
    """
    tiny = replace(tiny, packed=None)  # which puts itself in the place of the head's forward
    head = tiny.model.lm_head
    bound = torch.zeros(head.out_features)
    prompts, spec = random_prompts(3), PressSpec("knorm", 0.5)
    runs = {}
    for least in (-1e4, -torch.inf):
        bound[-20:] = least
        with monkeypatch.context() as patch:
            whole = head.forward
            patch.setattr(head, "forward", lambda hidden, whole=whole: whole(hidden) + bound)
            patch.setattr(self_check, "_known", WeakKeyDictionary())
            assert 0 < check_model(tiny, pressed=True).deviation < 1e-4
            runs[least] = generate_all(tiny, prompts, spec, 12, canary_tokens=3)
    for low, masked in zip(*runs.values(), strict=True):
        assert masked.error is None and masked.token_ids == low.token_ids
        for name, column in low.signals.items():
            np.testing.assert_array_equal(masked.signals[name], column, err_msg=name)


@pytest.mark.parametrize("value", ("nan", "inf"))
def test_logits_that_are_not_finite_fail_the_run_by_name(tiny, monkeypatch, value):
    step, calls = BatchedCache.step, []

    def poisoned(self, model, tokens, positions):
        logits = step(self, model, tokens, positions).clone()
        calls.append(1)
        if len(calls) == 3:
            logits[0, 5] = float(value)
        return logits

    monkeypatch.setattr(BatchedCache, "step", poisoned)
    # the longer prompt goes first, into slot 0
    healthy, failed = generate_all(tiny, random_prompts(2), PressSpec("none", 0.0), 10)
    assert failed.stop_reason == "error" and failed.error == "logits are not finite at new token 3"
    assert len(failed.token_ids) == 3 and healthy.stop_reason == "max_new_tokens"


def test_nan_left_in_a_slot_does_not_reach_the_next_prompt(tiny, monkeypatch):
    """A failed row's NaN must not leak to the shorter prompt that takes its slot (0 * NaN is NaN)."""
    prompts, spec = [*random_prompts(2), list(range(3, 40))], PressSpec("none", 0.0)
    expected = generate_all(tiny, prompts, spec, 10)[2].token_ids
    step, calls = BatchedCache.step, []

    def poisoned(self, model, tokens, positions):
        logits = step(self, model, tokens, positions).clone()
        calls.append(1)
        if len(calls) == 2:
            logits[1] = float("nan")
            with torch.inference_mode():
                for layer in self.layers:
                    layer.values[1] = float("nan")
        return logits

    monkeypatch.setattr(BatchedCache, "step", poisoned)
    failed, _, healthy = generate_all(tiny, prompts, spec, 10, batch_size=2)
    assert failed.stop_reason == "error" and healthy.token_ids == expected


def plain_presses():
    """Every supported press class of the installed kvpress that needs no arguments and takes a ratio."""
    for name in sorted(entry.class_name for entry in ENTRIES if not entry.is_own):
        try:
            PressSpec(name, 0.5).check_build()
        except InputError:
            continue
        yield name


@pytest.mark.parametrize("name", plain_presses())
def test_any_other_press_by_class_name_is_exact(tiny, name):
    spec, prompts = PressSpec(name, 0.5), random_prompts(2)
    lm = with_attention(tiny, spec)
    for result, prompt in zip(generate_all(lm, prompts, spec, 12), prompts, strict=True):
        assert result.error is None
        assert result.token_ids == alone(lm, prompt, spec.for_prompt(len(prompt)), result.index, 12)
        assert result.cache.kept_tokens < result.cache.prompt_tokens


def test_context_overflow_is_refused(tiny):
    with pytest.raises(InputError, match="max_new_tokens 500 .* context of 512"):
        generate_all(tiny, random_prompts(1), PressSpec("none", 0.0), 500)


def test_budget_keeps_exactly_so_many_tokens(tiny):
    for budget in (1, 7, 33, 70):
        results = generate_all(tiny, random_prompts(3), PressSpec("knorm", budget=budget), 2)
        assert [r.cache.kept_tokens for r in results] == [budget] * 3
