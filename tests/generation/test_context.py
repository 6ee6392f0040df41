"""A context is compressed and the question fed to it: beside kvpress's own pipeline, which does the same with
one prompt.
"""

import dataclasses
import importlib
import inspect
from functools import partial
from unittest.mock import patch

import numpy as np
import pytest
import torch
from kvpress import KeyRerotationPress, KVPressTextGenerationPipeline
from reference import Knowing, alone, kvpress_cache, with_attention

from kvhelpers.errors import InputError
from kvhelpers.generation import attention, batch
from kvhelpers.generation.attention import attention_implementation
from kvhelpers.generation.batched_cache import BatchedCache
from kvhelpers.generation.generate import generate
from kvhelpers.generation.prefill import Prefiller
from kvhelpers.generation.replay import Replayer
from kvhelpers.generation.requests import Request, Settings
from kvhelpers.generation.watch import Action
from kvhelpers.presses.registry import ENTRIES, PRESSES
from kvhelpers.presses.spec import PressSpec
from kvhelpers.tasks.load import load_problems
from kvhelpers.tasks.prompts import build_prompts

NEW = 24
DRAW = torch.Generator().manual_seed(7)


def some(length):
    return torch.randint(3, 300, (length,), generator=DRAW).tolist()


CONTEXTS = [some(length) for length in (90, 70, 120)]
# place of the context, question
ASKED = [(0, some(1)), (0, some(12)), (1, some(30)), (2, some(5)), (0, some(47)), (2, some(20))]
ON_ONE = [(0, some(length)) for length in (9, 1, 33, 17, 9, 4)]
NONE, KNORM = PressSpec("none", 0.0), PressSpec("knorm", 0.5)


def by_pipeline(lm, press, seed, new_tokens, context, question):
    """The tokens that kvpress's pipeline generates, up to the first end token, which it does not look for in
    the first one. It takes texts, or token ids.
    """
    generated = []
    pipe = KVPressTextGenerationPipeline(model=lm.model, tokenizer=lm.tokenizer)

    def decode(tokenizer, ids, **how):
        generated.append(ids.tolist())
        return ""

    torch.manual_seed(seed)
    with attention_implementation(lm.model, lm.attn), patch.object(type(lm.tokenizer), "decode", decode):
        if isinstance(context, str):
            pipe(context, question=question, press=press, max_new_tokens=new_tokens)
        else:
            ids = {"context_ids": torch.tensor([context]), "questions_ids": [torch.tensor([question])]}
            pipe.forward(ids, press=press, max_new_tokens=new_tokens)
    (tokens,) = generated
    return up_to_end(lm, tokens)


def one_by_one(lm, press, seed, new_tokens, context, question):
    """The tokens after a question that is fed token by token to what kvpress leaves of a context: no mask
    that kvpress or transformers would make for several tokens is needed.
    """
    cache, _ = kvpress_cache(lm, context, press, seed)
    fed, generated = list(question), []
    with torch.no_grad(), attention_implementation(lm.model, lm.attn):
        for place in range(len(question) + new_tokens - 1):
            places = torch.tensor([[len(context) + place]])
            ids = torch.tensor([[fed[place]]])
            out = lm.model(input_ids=ids, position_ids=places, past_key_values=cache)
            if place >= len(question) - 1:
                generated.append(int(out.logits[0, -1].argmax()))
                fed.append(generated[-1])
    return up_to_end(lm, generated)


def up_to_end(lm, tokens):
    return tokens[: next((n + 1 for n, token in enumerate(tokens) if token in lm.stop_ids), len(tokens))]


def requests_for(spec, asked=ASKED, **more):
    presses = [spec.for_prompt(len(context)) for context in CONTEXTS]
    return [
        Request([*CONTEXTS[at], *question], presses[at], at, context=len(CONTEXTS[at]), **more)
        for at, question in asked
    ]


def generated(lm, requests, new_tokens=NEW, batch_size=4, **settings):
    runs = generate(lm, requests, Settings(new_tokens, batch_size, **settings))
    return sorted(runs, key=lambda run: run.index)


def tokens_of(lm, spec, asked=ASKED, **settings):
    return [run.token_ids for run in generated(lm, requests_for(spec, asked), **settings)]


def expected(lm, spec, asked=ASKED, new_tokens=NEW, reference=by_pipeline):
    presses = [spec.for_prompt(len(CONTEXTS[at])) for at, _ in asked]
    pairs = zip(asked, presses, strict=True)
    return [reference(lm, press, at, new_tokens, CONTEXTS[at], question) for (at, question), press in pairs]


@pytest.mark.parametrize("ratio", (0.25, 0.75))
@pytest.mark.parametrize("name", PRESSES)
def test_tokens_are_those_of_the_pipeline(tiny, name, ratio):
    spec = PressSpec(name, ratio, kwargs={"window_size": 16} if name == "snapkv" else {})
    lm = with_attention(tiny, spec)
    runs = generated(lm, requests_for(spec))
    assert [run.token_ids for run in runs] == expected(lm, spec)
    for run, (at, _) in zip(runs, ASKED, strict=True):
        assert run.cache.prompt_tokens == len(CONTEXTS[at]) and run.cache.question_kept == 1
        assert run.cache.kept_tokens == int(len(CONTEXTS[at]) * (1 - ratio))
        assert run.cache.cache_bytes * len(CONTEXTS[at]) == run.cache.full_bytes * run.cache.kept_tokens
        assert run.drafting.passes + run.drafting.accepted == len(run.token_ids)


def test_without_a_press_it_is_the_whole_prompt_s_answer(tiny):
    prompts = [[*CONTEXTS[at], *question] for at, question in ASKED]
    assert tokens_of(tiny, NONE) == [alone(tiny, prompt, None, 0, NEW) for prompt in prompts]


@pytest.mark.parametrize(
    "name",
    [name if name == "snapkv" else pytest.param(name, marks=pytest.mark.slow) for name in PRESSES],
)
def test_the_embedded_model_answers_as_in_the_pipeline(embedded, name):
    """Its texts go through the pipeline's own template and tokenization."""
    spec = PressSpec(name, 0.5, kwargs={"window_size": 16} if name == "snapkv" else {})
    lm = with_attention(embedded, spec)
    problems, examples = load_problems("onestep", 3, 1, seed=42)
    prompts = build_prompts(problems, examples, lm.tokenizer, multiturn=False, compress="context")
    press = spec.for_prompt(len(prompts[0].compressed))
    requests = [Request(prompt.token_ids, press, 0, context=prompt.context) for prompt in prompts]
    for run, prompt in zip(generated(lm, requests, 16), prompts, strict=True):
        context, question = prompt.messages[-1]["content"].rsplit("Question:", 1)
        assert run.token_ids == by_pipeline(
            lm, spec.for_prompt(prompt.context), 0, 16, context, "Question:" + question
        )


# the inner presses that wrappers need, and one that leaves the layers different lengths
INNER = {
    "press": {"name": "knorm"},
    "base_press": {"name": "knorm"},
    "low_entropy_chunk_length": 1,
    "decoding_press": {"name": "DecodingPress", "base_press": {"name": "knorm"}, "target_size": 20},
    "prefilling_press": {"name": "snapkv", "window_size": 4},
}
DEFERRING = {"PerLayerCompressionPress", "SimLayerKVPress", "ThinKPress"}  # they take no ratio
LONG = [entry for entry in ENTRIES if entry.unsupported is None and entry.class_name not in DEFERRING]
# why the pipeline itself fails on the prompts whose questions have more than one token
BY_THE_PIPELINE = {
    "AdaKVPress": "Could not find fake keys",
    "CriticalAdaKVPress": "Could not find fake keys",
    "ChunkKVPress": "size of tensor",
    "PyramidKVPress": "size of tensor",
}


@pytest.mark.parametrize(
    "entry",
    [entry for entry in LONG if entry.class_name not in PRESSES.values()],
    ids=lambda one: one.class_name,
)
def test_any_other_press_of_the_registry_gives_the_tokens_of_the_pipeline_where_that_runs(tiny, entry):
    fields = inspect.signature(getattr(importlib.import_module(entry.module), entry.class_name)).parameters
    kwargs = {name: value for name, value in INNER.items() if name in fields}
    kwargs |= {"window_size": 8} if entry.class_name == "PyramidKVPress" else {}
    spec = PressSpec(entry.short or entry.class_name, 0.0 if "base_press" in fields else 0.5, kwargs=kwargs)
    ours, failed = tokens_of(tiny, spec, new_tokens=12), []
    for (at, question), tokens in zip(ASKED, ours, strict=True):
        how = (at, 12, CONTEXTS[at], question)
        try:
            wanted = by_pipeline(tiny, spec.for_prompt(len(CONTEXTS[at])), *how)
        except (RuntimeError, ValueError) as error:
            failed.append(str(error))
            wanted = one_by_one(tiny, spec.for_prompt(len(CONTEXTS[at])), *how)
        assert tokens == wanted
    reason = BY_THE_PIPELINE.get(entry.class_name)
    assert (len(failed) > 0) == (reason is not None) and all(reason in error for error in failed)
    assert len(failed) < len(ASKED)  # a question of one token needs no mask


@pytest.mark.parametrize("interval", (1, 5))
def test_a_question_is_a_step_to_a_press_that_cuts_while_decoding(tiny, interval):
    base = {"base_press": {"name": "knorm"}, "compression_interval": interval, "target_size": 18}
    spec = PressSpec("DecodingPress", 0.0, kwargs=base)
    runs = generated(tiny, requests_for(spec))
    assert [run.token_ids for run in runs] == expected(tiny, spec)
    long = [run for run, (_, question) in zip(runs, ASKED, strict=True) if len(question) >= 18]
    assert [run.compressions[0].step for run in long] == [0] * 3
    assert runs[0].compressions[0].step == interval - 1


def test_rotated_keys_are_followed_at_once_as_in_the_pipeline(tiny):
    spec = PressSpec("KeyRerotationPress", 0.5, kwargs={"press": {"name": "streaming_llm"}})
    assert isinstance(spec.for_prompt(9), KeyRerotationPress)
    at, question = ASKED[1]
    moved = tokens_of(tiny, spec)[1]
    assert moved != one_by_one(tiny, spec.for_prompt(len(CONTEXTS[at])), at, NEW, CONTEXTS[at], question)


@pytest.mark.parametrize("name", ("none", "knorm", "random", "AdaKVPress"))
@pytest.mark.parametrize("size", (1, 6))
def test_questions_on_one_context_share_its_prefill(tiny, monkeypatch, name, size):
    """Rows read what all have in common together, but where heads mask keys."""
    kwargs = {"press": {"name": "knorm"}} if name == "AdaKVPress" else {}
    spec, prefilled, merged = PressSpec(name, 0.0 if name == "none" else 0.5, kwargs=kwargs), [], []
    prefill, merge = Prefiller.__call__, attention._merged
    monkeypatch.setattr(
        Prefiller, "__call__", lambda *args, **more: prefilled.append(len(args[1])) or prefill(*args, **more)
    )
    monkeypatch.setattr(attention, "_merged", lambda *parts: merged.append(1) or merge(*parts))
    ours = tokens_of(tiny, spec, ON_ONE, batch_size=size)
    assert prefilled == [1] and bool(merged) == (size == 6 and name != "AdaKVPress")
    monkeypatch.undo()
    assert ours == expected(tiny, spec, ON_ONE, reference=one_by_one)


def test_a_random_press_draws_once_for_all_questions_on_a_context(tiny):
    """As in the pipeline, when it is given several questions at once."""
    spec = PressSpec("random", 0.5)
    pipe, answers = KVPressTextGenerationPipeline(model=tiny.model, tokenizer=tiny.tokenizer), []
    torch.manual_seed(0)
    ids = {"context_ids": torch.tensor([CONTEXTS[0]])}
    ids["questions_ids"] = [torch.tensor([question]) for _, question in ON_ONE]
    decode = lambda tokenizer, ids, **how: answers.append(ids.tolist()) or ""  # noqa: E731
    with patch.object(type(tiny.tokenizer), "decode", decode):
        pipe.forward(ids, press=spec.for_prompt(len(CONTEXTS[0])), max_new_tokens=NEW)
    assert tokens_of(tiny, spec, ON_ONE) == [up_to_end(tiny, tokens) for tokens in answers]


@pytest.mark.parametrize("name", ("none", "snapkv"))
def test_drafts_and_batches_change_no_token(tiny, monkeypatch, name):
    spec = PressSpec(
        name, 0.0 if name == "none" else 0.5, kwargs={"window_size": 8} if name != "none" else {}
    )
    plain = tokens_of(tiny, spec, drafts=False, batch_size=1)
    answers = {
        (*CONTEXTS[at], *question): tokens for (at, question), tokens in zip(ASKED, plain, strict=True)
    }
    monkeypatch.setattr(batch, "Drafter", lambda prompt: Knowing(prompt, answers))
    for size in (2, 6):
        runs = generated(tiny, requests_for(spec), batch_size=size)
        assert [run.token_ids for run in runs] == plain
        assert sum(run.drafting.accepted for run in runs) > len(runs)


@pytest.mark.parametrize("most", (1, 40))
def test_long_questions_wait_until_others_were_fed(tiny, monkeypatch, most):
    whole = tokens_of(tiny, KNORM)
    monkeypatch.setattr(batch, "GROUP_TOKENS", most)
    assert tokens_of(tiny, KNORM) == whole


def test_memory_that_runs_out_while_questions_are_fed_halves_the_batch(tiny, monkeypatch):
    whole, step = tokens_of(tiny, KNORM), BatchedCache.step

    def limited(self, model, fed, positions, *last):
        if sum(map(len, fed)) > 50:
            raise torch.OutOfMemoryError("no memory for so many tokens")
        return step(self, model, fed, positions, *last)

    monkeypatch.setattr(BatchedCache, "step", limited)
    runs = generated(tiny, requests_for(KNORM))
    assert [run.token_ids for run in runs] == whole and min(run.batch_size for run in runs) < 4


def test_the_canary_compares_the_first_token_too(tiny):
    """The reference run gets the question as well; under no press it has the same distributions."""
    for spec, least in ((NONE, 0.0), (KNORM, 1e-3)):
        runs = generated(tiny, requests_for(spec), canary_tokens=3)
        assert [run.token_ids for run in runs] == tokens_of(tiny, spec)
        for run, (at, question) in zip(runs, ASKED, strict=True):
            kl = run.signals["canary_kl"]
            assert np.isfinite(kl[:4]).all() and np.isnan(kl[4:]).all()
            assert (kl[0] > least) if least else (kl[:4] < 1e-6).all()
            if spec is KNORM:
                prompt = torch.tensor([[*CONTEXTS[at], *question]])
                with torch.no_grad():
                    full = tiny.model(prompt).logits[0, -1].log_softmax(-1)
                press = spec.for_prompt(len(CONTEXTS[at]))
                cache, _ = kvpress_cache(tiny, CONTEXTS[at], press, at)
                places = torch.arange(len(CONTEXTS[at]), prompt.shape[1])[None]
                with torch.no_grad():
                    ids = torch.tensor([question])
                    out = tiny.model(ids, position_ids=places, past_key_values=cache)
                ours = out.logits[0, -1].log_softmax(-1)
                assert kl[0] == pytest.approx(float((full.exp() * (full - ours)).sum()), abs=1e-4)


class Once:
    """Acts once, when a run has so many tokens."""

    def __init__(self, at, action):
        self.at, self.action = at, action

    def look(self, tokens, signals):
        if len(tokens) != self.at or self.action is None:
            return None
        action, self.action = self.action, None
        return action


@pytest.mark.parametrize("keep", (0, 6))
@pytest.mark.parametrize("ratio", (None, 0.25))
def test_a_run_that_is_acted_on_goes_on_from_its_context_under_the_other_press(tiny, keep, ratio):
    """What stands behind the context is fed to the new cache: the question, and the tokens that stay."""
    spec = NONE if ratio is None else PressSpec("tova", ratio)
    before = tokens_of(tiny, KNORM)
    presses = [spec.for_prompt(len(context)) for context in CONTEXTS]
    requests = [
        dataclasses.replace(request, watch=partial(Once, 8, Action("go on", keep, presses[at], (5,))))
        for request, (at, _) in zip(requests_for(KNORM), ASKED, strict=True)
    ]
    acted = 0
    for run, past, (at, question) in zip(generated(tiny, requests), before, ASKED, strict=True):
        if len(past) <= 8:
            assert run.token_ids == past
            continue
        given = [*past[:keep], 5]
        wanted = by_pipeline(tiny, presses[at], at, NEW - len(given), CONTEXTS[at], [*question, *given])
        assert run.token_ids == [*given, *wanted]
        assert run.acted[0].cache.prompt_tokens == len(CONTEXTS[at])
        acted += 1
    assert acted > 3


def test_a_first_token_that_ends_the_run_ends_it(tiny):
    """Which the pipeline does not look for."""
    (tokens,) = tokens_of(tiny, KNORM, ASKED[:1])
    stopping = dataclasses.replace(tiny, stop_ids=frozenset({tokens[0]}))
    (run,) = generated(stopping, requests_for(KNORM, ASKED[:1]))
    assert (run.token_ids, run.stop_reason) == (tokens[:1], "eos")


def test_a_press_that_fails_on_a_context_fails_each_of_its_runs(tiny):
    spec = PressSpec("snapkv", 0.5, kwargs={"window_size": 80})
    runs = generated(tiny, requests_for(spec))
    failed = [run.stop_reason == "error" for run in runs]
    assert failed == [len(CONTEXTS[at]) <= 80 for at, _ in ASKED] and sum(failed) == 1
    assert "in the prefill" in runs[2].error


@pytest.mark.parametrize("context", (0, 91))
def test_a_context_without_tokens_and_one_without_a_question_are_refused(tiny, context):
    request = Request([*CONTEXTS[0], 5], None, 0, context=context)
    with pytest.raises(InputError, match=f"context {context} of a prompt of 91 tokens is not allowed"):
        generated(tiny, [request])


def test_its_runs_cannot_be_replayed(tiny):
    (request,) = requests_for(KNORM, ASKED[:1])
    with pytest.raises(InputError, match="compress 'context' has the question fed .* cannot be replayed"):
        Replayer(tiny, [request.token_ids]).prefill(request)
