import pytest
from reference import tiny_llama

from kvhelpers.errors import InputError
from kvhelpers.limits import check_limits, compressed_window
from kvhelpers.presses import PressSpec

PROMPT = list(range(3, 103))
DECODING = PressSpec("DecodingPress", 0.0, kwargs={"base_press": {"name": "knorm"}, "target_size": 64}).for_prompt(100)


@pytest.fixture(scope="module")
def sliding():
    from transformers import MistralConfig, MistralForCausalLM

    return MistralForCausalLM(MistralConfig(**{**tiny_llama().config.to_dict(), "model_type": "mistral", "sliding_window": 64}))


def test_the_window_that_counts_is_one_that_is_compressed(sliding):
    knorm = PressSpec("knorm", 0.5).for_prompt(100)
    assert compressed_window(sliding, None) is None
    assert compressed_window(sliding, knorm) == compressed_window(sliding, DECODING) == 64
    assert compressed_window(tiny_llama(), knorm) is None
    check_limits(sliding, [PROMPT], None, 200)
    check_limits(sliding, [PROMPT[:50]], knorm, 14)
    with pytest.raises(InputError, match="max_new_tokens 15 with a prompt of 50 tokens exceeds the sliding window of 64"):
        check_limits(sliding, [PROMPT[:50]], knorm, 15)


def test_the_context_ends_somewhere():
    check_limits(tiny_llama(), [PROMPT], None, 412)
    with pytest.raises(InputError, match="max_new_tokens 413 .* exceeds the model's context of 512; choose at most 412"):
        check_limits(tiny_llama(), [PROMPT[:5], PROMPT], None, 413)
    with pytest.raises(InputError, match="max_new_tokens 0 is below 1"):
        check_limits(tiny_llama(), [], None, 0)
