import pytest
import torch
from reference import tiny_llama

from kvhelpers.errors import InputError
from kvhelpers.generation import limits
from kvhelpers.generation.batched_cache import BatchedCache
from kvhelpers.generation.limits import auto_batch_size, check_limits, compressed_window, row_bytes
from kvhelpers.generation.requests import Request, Settings
from kvhelpers.presses.spec import PressSpec

PROMPT = list(range(3, 103))
DECODING = PressSpec(
    "DecodingPress", 0.0, kwargs={"base_press": {"name": "knorm"}, "target_size": 64}
).for_prompt(100)


def check(model, prompts, press, max_new_tokens):
    check_limits(model, [Request(prompt, press, 0) for prompt in prompts], max_new_tokens)


@pytest.fixture(scope="module")
def sliding():
    from transformers import MistralConfig, MistralForCausalLM

    return MistralForCausalLM(
        MistralConfig(**{**tiny_llama().config.to_dict(), "model_type": "mistral", "sliding_window": 64})
    )


def test_the_window_that_counts_is_one_that_is_compressed(sliding):
    knorm = PressSpec("knorm", 0.5).for_prompt(100)
    assert compressed_window(sliding, None) is None
    assert compressed_window(sliding, knorm) == compressed_window(sliding, DECODING) == 64
    assert compressed_window(tiny_llama(), knorm) is None
    check(sliding, [PROMPT], None, 200)
    check(sliding, [PROMPT[:50]], knorm, 14)
    with pytest.raises(
        InputError, match="max_new_tokens 15 with a prompt of 50 tokens exceeds the sliding window of 64"
    ):
        check(sliding, [PROMPT[:50]], knorm, 15)


def test_a_prompt_without_a_press_is_not_held_to_the_window(sliding):
    knorm = PressSpec("knorm", 0.5).for_prompt(50)
    requests = [Request(PROMPT, None, 0), Request(PROMPT[:50], knorm, 0)]
    check_limits(sliding, requests, 14)
    with pytest.raises(InputError, match="max_new_tokens 15 with a prompt of 50 tokens exceeds"):
        check_limits(sliding, requests, 15)


def test_the_context_ends_somewhere():
    check(tiny_llama(), [PROMPT], None, 412)
    with pytest.raises(
        InputError, match="max_new_tokens 413 .* exceeds the model's context of 512; choose at most 412"
    ):
        check(tiny_llama(), [PROMPT[:5], PROMPT], None, 413)
    with pytest.raises(InputError, match="max_new_tokens 0 is below 1"):
        check(tiny_llama(), [], None, 0)


def test_a_row_is_not_estimated_below_what_it_takes(tiny):
    """Against the bytes of a real cache's buffers, grown token by token."""
    cache = BatchedCache(tiny.model, 1)
    for layer in cache.layers:
        layer.put(0, torch.zeros(1, 2, 80, 16), torch.zeros(1, 2, 80, 16), None)
    cache.lengths = [[80] * len(cache.layers)]
    for _ in range(100):
        cache.step(tiny.model, [[5]], [cache.lengths[0][0]])
        cache.keep([1])
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert held <= row_bytes(tiny, 180) <= 2 * held


@pytest.mark.parametrize(("free", "expected"), ((0, 1), (2e6 + 8 * 300 * 256, 2), (1e15, 64)))
def test_batch_size_follows_free_memory(tiny, monkeypatch, free, expected):
    monkeypatch.setattr(limits, "free_bytes", lambda device: free)
    assert auto_batch_size(tiny, 300, 200) == expected


def test_longer_answers_leave_room_for_fewer(tiny, monkeypatch):
    monkeypatch.setattr(limits, "free_bytes", lambda device: 1e7)
    assert auto_batch_size(tiny, 300, 200) > auto_batch_size(tiny, 300, 2000) >= 1


def test_free_memory_is_measured():
    assert 1e6 < limits.free_bytes("cpu") < 1e15


@pytest.mark.parametrize(
    "setting", [{"batch_size": 0}, {"batch_size": 1.5}, {"stop_strings": "dog"}, {"stop_strings": ("",)}]
)
def test_settings_that_are_none_are_refused(setting):
    (name,) = setting
    with pytest.raises(InputError, match=f"{name} .* not allowed"):
        Settings(**{"max_new_tokens": 4, "batch_size": 2} | setting)
