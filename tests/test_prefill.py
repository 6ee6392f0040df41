import pytest
from reference import with_attention

from kvhelpers.prefill import prefill
from kvhelpers.presses import PressSpec
from kvhelpers.validity import baseline_is_weak

PROMPT = list(range(3, 103))


def report(tiny, name, ratio, **kwargs):
    spec = PressSpec(name, ratio, kwargs=kwargs)
    return prefill(with_attention(tiny, spec), PROMPT, spec.for_prompt(len(PROMPT)), seed=0)[1]


def test_uncompressed_cache(tiny):
    plain = report(tiny, "none", 0.0)
    config = tiny.model.config
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    assert (plain.prompt_tokens, plain.kept_tokens, plain.sink_kept) == (100, 100, 1.0)
    assert plain.cache_bytes == plain.full_bytes == 100 * per_token
    assert plain.flags(compresses=False) == []


def test_sink_is_kept_or_evicted_as_the_press_says(tiny):
    assert report(tiny, "streaming_llm", 0.5).sink_kept == 1
    assert report(tiny, "streaming_llm", 0.5, n_sink=0).sink_kept == 0
    assert report(tiny, "streaming_llm", 0.5, n_sink=0).flags(True) == ["sink_evicted"]


def test_window_flags(tiny):
    assert report(tiny, "snapkv", 0.5, window_size=64).flags(True) == ["kept_within_window", "sink_evicted"]
    assert "kept_within_window" not in report(tiny, "snapkv", 0.5, window_size=8).flags(True)


def test_compression_that_did_not_happen(tiny):
    assert "not_compressed" in report(tiny, "knorm", 0.0).flags(True)


def test_head_wise_masking_counts_tokens_but_no_bytes(tiny):
    masked = report(tiny, "AdaKVPress", 0.5, press={"name": "knorm"})
    assert masked.kept_tokens == pytest.approx(50, abs=1)
    assert masked.cache_bytes == masked.full_bytes and "cache_not_shrunk" in masked.flags(True)


def test_random_press_depends_on_the_seed_only(tiny):
    spec = PressSpec("random", 0.5)
    first, again, other = (prefill(tiny, PROMPT, spec.for_prompt(100), seed)[0].cache for seed in (1, 1, 2))
    assert (first.layers[1].keys == again.layers[1].keys).all()
    assert not (first.layers[1].keys == other.layers[1].keys).all()


def test_weak_baseline_is_where_mcnemar_cannot_reach_significance():
    assert [baseline_is_weak(k) for k in (0, 5, 6, 20)] == [True, True, False, False]
