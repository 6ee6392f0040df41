import dataclasses
import tempfile
from pathlib import Path

import psutil
import pytest
import torch
from reference import kvpress_cache, requests_for, tiny_llama, with_attention

from kvhelpers.generation import prefill as module
from kvhelpers.generation.limits import attention_modules
from kvhelpers.generation.passes import Passes, Spill
from kvhelpers.generation.prefill import Prefiller
from kvhelpers.generation.requests import Request
from kvhelpers.models.load import LanguageModel
from kvhelpers.presses.kinds import is_posthoc
from kvhelpers.presses.registry import PRESSES
from kvhelpers.presses.spec import PressSpec
from kvhelpers.scoring.flags import cache_flags

PROMPT = list(range(3, 103))
MANY = [
    PROMPT[:70] + [200 + i] * (5 + 3 * i) for i in range(5)
]  # 70 tokens in common, five different lengths
QUESTION = (60, 72)
SPECS = [PressSpec("none", 0.0), *(PressSpec(name, 0.5) for name in PRESSES)]


def prefilled(lm, name, ratio, **kwargs):
    spec = PressSpec(name, ratio, kwargs=kwargs)
    lm = with_attention(lm, spec)
    return Prefiller(lm, [PROMPT])(requests_for([PROMPT], spec))[0]


def report(tiny, name, ratio, **kwargs):
    return prefilled(tiny, name, ratio, **kwargs).report


def together(lm, prompts, spec):
    return Prefiller(lm, prompts)(requests_for(prompts, spec))


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
@pytest.mark.parametrize(
    "prompts", (MANY, [p[::-1] for p in MANY]), ids=("common beginning", "none in common")
)
def test_a_group_gets_the_caches_that_kvpress_gives_each_prompt_alone(tiny, spec, prompts):
    lm = with_attention(tiny, spec)
    assert bool(Prefiller(lm, prompts).beginning) == (prompts is MANY)
    requests = [dataclasses.replace(one, question=QUESTION) for one in requests_for(prompts, spec)]
    for seed, (prompt, grouped) in enumerate(zip(prompts, Prefiller(lm, prompts)(requests), strict=True)):
        cache, logits = kvpress_cache(lm, prompt, spec.for_prompt(len(prompt)), seed)
        torch.testing.assert_close(grouped.logits, logits, rtol=1e-4, atol=1e-4)
        for ours, theirs in zip(grouped.cache.layers, cache.layers, strict=True):
            torch.testing.assert_close(ours.keys, theirs.keys, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(ours.values, theirs.values, rtol=1e-4, atol=1e-4)
        assert grouped.report.sink_kept == _kept(lm, prompt, cache, [0])
        assert grouped.report.question_kept == _kept(lm, prompt, cache, range(*QUESTION))


def _kept(lm, prompt, compressed, places):
    """Share of keys that heads above the first layer hold, by comparison with an uncompressed cache."""
    whole, _ = kvpress_cache(lm, prompt, None, 0)
    heads = [
        (kept.keys[0] - full.keys[0, :, place, None]).abs().amax(-1).amin(-1) < 1e-4
        for kept, full in zip(compressed.layers[1:], whole.layers[1:], strict=True)
        for place in places
    ]
    return round(torch.stack(heads).double().mean().item(), 4)


def test_the_common_beginning_runs_once(tiny, monkeypatch):
    seen, forward = [], tiny.model.forward
    monkeypatch.setattr(
        tiny.model,
        "forward",
        lambda input_ids, **kw: seen.append(input_ids.shape) or forward(input_ids, **kw),
    )
    together(tiny, MANY, PressSpec("knorm", 0.5))
    assert seen == [(1, 70), (5, 17)]
    seen.clear()
    together(tiny, MANY, PressSpec("AdaKVPress", 0.5, kwargs={"press": {"name": "knorm"}}))
    assert seen == [(1, len(prompt)) for prompt in MANY]


def test_a_press_that_fails_on_one_prompt_fails_alone(tiny):
    first, *_, last = together(tiny, [PROMPT[:90], PROMPT[:20]], PressSpec("snapkv", 0.5))
    assert first.report.prompt_tokens == 90 and last.startswith("AssertionError in the prefill: Query length")


def test_groups_are_as_large_as_their_tokens_and_logits_allow(tiny, monkeypatch):
    prefiller, press = Prefiller(tiny, MANY), PressSpec("knorm", 0.5).for_prompt(75)
    assert prefiller.group_size(MANY, press) == 5
    monkeypatch.setattr(module, "GROUP_TOKENS", 3 * len(MANY[2]))
    assert prefiller.group_size(MANY, press) == 3
    monkeypatch.setattr(module, "GROUP_LOGITS", 4)  # two prompts of two lengths
    assert prefiller.group_size(MANY, press) == 2
    assert prefiller.group_size([PROMPT[:60]] * 5, PressSpec("random", 0.5).for_prompt(9)) == 4
    assert prefiller.group_size(MANY, PressSpec("ObservedAttentionPress", 0.5).for_prompt(9)) == 1
    monkeypatch.setattr(module, "GROUP_TOKENS", 1)
    assert prefiller.group_size(MANY, press) == 1


def test_layers_with_a_sliding_window_are_prefilled_one_prompt_at_a_time(tiny):
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(**{**tiny_llama().config.to_dict(), "model_type": "mistral", "sliding_window": 32})
    lm = LanguageModel(
        "sliding",
        MistralForCausalLM(config).eval(),
        tiny.tokenizer,
        tiny.stop_ids,
        "cpu",
        "float32",
        "sdpa",
        "",
    )
    assert not Prefiller(lm, MANY).together(None)


def test_hooks_and_forward_are_put_back(tiny):
    attention = attention_modules(tiny.model)
    together(tiny, [PROMPT[:90], PROMPT[:20]], PressSpec("snapkv", 0.5))
    assert not any("forward" in vars(m) or m._forward_hooks or m._forward_pre_hooks for m in attention)


def test_uncompressed_cache(tiny):
    plain = report(tiny, "none", 0.0)
    config = tiny.model.config
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    assert (plain.prompt_tokens, plain.kept_tokens, plain.sink_kept) == (100, 100, 1.0)
    assert plain.cache_bytes == plain.full_bytes == 100 * per_token
    assert cache_flags(plain, compresses=False) == []


def test_sink_is_kept_or_evicted_as_the_press_says(tiny):
    assert report(tiny, "streaming_llm", 0.5).sink_kept == 1
    assert report(tiny, "streaming_llm", 0.5, n_sink=0).sink_kept == 0
    assert cache_flags(report(tiny, "streaming_llm", 0.5, n_sink=0), True) == ["sink_evicted"]


def test_the_question_is_kept_as_far_as_the_press_keeps_its_places(tiny):
    def share(spec, question):
        lm = with_attention(tiny, spec)
        (request,) = requests_for([PROMPT], spec)
        return Prefiller(lm, [PROMPT])([dataclasses.replace(request, question=question)])[
            0
        ].report.question_kept

    streaming = PressSpec("streaming_llm", 0.5)  # the first 4 and the last 46 of 100
    assert share(PressSpec("none", 0.0), (10, 90)) == 1
    assert share(streaming, None) is None
    assert (share(streaming, (60, 90)), share(streaming, (10, 50)), share(streaming, (44, 64))) == (1, 0, 0.5)
    half = PressSpec("AdaKVPress", 0.5, kwargs={"press": {"name": "knorm"}})  # masks keys, head by head
    assert 0 < share(half, (10, 90)) < 1


def test_window_flags(tiny):
    assert cache_flags(report(tiny, "snapkv", 0.5, window_size=64), True) == [
        "kept_within_window",
        "sink_evicted",
    ]
    assert "kept_within_window" not in cache_flags(report(tiny, "snapkv", 0.5, window_size=8), True)


def test_compression_that_did_not_happen(tiny):
    assert "not_compressed" in cache_flags(report(tiny, "knorm", 0.0), True)


def test_head_wise_masking_counts_tokens_but_no_bytes(tiny):
    masked = report(tiny, "AdaKVPress", 0.5, press={"name": "knorm"})
    assert masked.kept_tokens == pytest.approx(50, abs=1)
    assert masked.cache_bytes == masked.full_bytes and "cache_not_shrunk" in cache_flags(masked, True)


def test_random_press_depends_on_the_seed_only(tiny):
    spec = PressSpec("random", 0.5)
    requests = [Request(PROMPT, spec.for_prompt(100), seed) for seed in (1, 1, 2)]
    first, again, other = (prefilled.cache for prefilled in Prefiller(tiny, [PROMPT])(requests))
    assert (first.layers[1].keys == again.layers[1].keys).all()
    assert not (first.layers[1].keys == other.layers[1].keys).all()


@pytest.mark.parametrize("prompts", (MANY, [p[::-1] for p in MANY]), ids=("common beginning", "none"))
def test_presses_on_the_same_prompts_share_their_passes(tiny, prompts, tmp_path, monkeypatch):
    whole = Passes(limit=10**9)
    Prefiller(tiny, prompts, passes=whole)(requests_for(prompts, SPECS[0]))
    passes = Passes(limit=whole.held // 2, spill=Spill(tmp_path, 10**9))
    seen, forward = [], tiny.model.forward
    monkeypatch.setattr(
        tiny.model,
        "forward",
        lambda input_ids, **kw: seen.append(input_ids.shape) or forward(input_ids, **kw),
    )
    posthoc = [spec for spec in SPECS if is_posthoc(spec.for_prompt(75))]
    assert len(posthoc) > 5
    for spec in [*posthoc, posthoc[0]]:  # the last one finds what the others left
        requests = requests_for(prompts, spec)
        for ours, alone in zip(
            Prefiller(tiny, prompts, passes=passes)(requests), Prefiller(tiny, prompts)(requests), strict=True
        ):
            assert torch.equal(ours.logits, alone.logits) and ours.report == alone.report
            for one, other in zip(ours.cache.layers, alone.cache.layers, strict=True):
                assert torch.equal(one.keys, other.keys) and torch.equal(one.values, other.values)
    assert passes.held and passes.spill.held  # some in memory, some on the disk
    each = 2 if prompts is MANY else 1
    assert len(seen) == each * (len(posthoc) + 1) + each  # one round more than without sharing


def test_passes_stay_within_their_limit_and_with_their_beginning(tiny):
    spec = PressSpec("knorm", 0.5)
    requests = requests_for(MANY, spec)
    roomy = Passes(limit=10**9)
    Prefiller(tiny, MANY, passes=roomy)(requests)
    assert len(roomy.endings) == 5 and roomy.held == sum(roomy.ending(p).nbytes for p in MANY)
    tight = Passes(limit=roomy.held - 1)
    Prefiller(tiny, MANY, passes=tight)(requests)
    assert len(tight.endings) == 4 and tight.held <= tight.limit
    Prefiller(tiny, MANY, passes=roomy)(
        requests_for(MANY, PressSpec("AdaKVPress", 0.5, kwargs={"press": {"name": "knorm"}}))
    )
    assert len(roomy.endings) == 5  # a press that needs passes of its own leaves them alone
    others = [prompt[1:] for prompt in MANY]
    Prefiller(tiny, others, passes=roomy)(requests_for(others, spec))
    assert list(map(list, roomy.endings)) == others


def test_what_is_kept_holds_neither_the_group_s_logits_nor_a_file_for_each_prompt(tiny, tmp_path):
    many = [PROMPT[:70] + [200 + i] * (5 + i) for i in range(12)]
    requests, before = requests_for(many, PressSpec("knorm", 0.5)), psutil.Process().num_fds()
    passes = Passes(spill=Spill(tmp_path, 10**9))
    Prefiller(tiny, many, passes=passes)(requests)
    assert len(passes.endings) == 12 and psutil.Process().num_fds() - before <= 2
    for prompt in many:
        logits = passes.ending(prompt).logits
        assert logits.untyped_storage().nbytes() == logits.nbytes


def test_one_prompt_left_finds_the_kept_beginning(tiny):
    spec, passes = PressSpec("knorm", 0.5), Passes(limit=10**9)
    Prefiller(tiny, MANY, passes=passes)(requests_for(MANY, spec))
    lone = Prefiller(tiny, MANY[3:4], passes=passes)
    assert lone.beginning == list(passes.beginning) and len(lone.beginning) == 70
    lone(requests_for(MANY[3:4], spec))
    assert len(passes.endings) == 5


def test_a_full_disk_costs_passes_only(tiny, tmp_path, monkeypatch):
    spec, small = PressSpec("knorm", 0.5), Passes(limit=1, spill=Spill(tmp_path, limit=1))
    Prefiller(tiny, MANY, passes=small)(requests_for(MANY, spec))
    assert not small.endings and small.held == small.spill.held == 0
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: Path("/dev/full").open("wb"))  # noqa: SIM115
    broken = Passes(limit=1, spill=Spill(tmp_path, limit=10**9))
    caches = Prefiller(tiny, MANY, passes=broken)(requests_for(MANY, spec))
    assert not broken.endings and len(caches) == 5
