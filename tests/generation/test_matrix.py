"""Each press on each family of models, with small random weights: a batch gives each prompt's own output, or
says why not.

The table is printed at the end of the run.
"""

import pytest
import torch
import transformers
from reference import MATRIX, SIZES, alone, kvpress_cache, requests_for, with_attention

from kvhelpers.errors import InputError
from kvhelpers.generation.generate import generate
from kvhelpers.generation.requests import Settings
from kvhelpers.models.load import LanguageModel
from kvhelpers.presses.registry import PRESSES
from kvhelpers.presses.spec import PressSpec

SLIDING = {"sliding_window": 48, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
SMALL = SIZES | {"num_attention_heads": 4}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
}
FAMILIES = {  # class name without its ending, and its configuration
    "Llama": ("Llama", SMALL),
    "Mistral": ("Mistral", SMALL | {"sliding_window": None}),
    "Mistral, sliding window": ("Mistral", SMALL | {"sliding_window": 48}),
    "Qwen2": ("Qwen2", SMALL),
    "Qwen3": ("Qwen3", SMALL),
    "Phi3": ("Phi3", SMALL | {"pad_token_id": 0}),
    "Gemma3 (multimodal)": (
        "Gemma3",
        {"text_config": SMALL | SLIDING, "vision_config": VISION, "image_token_index": 299},
    ),
    "Gemma3 (text only)": ("Gemma3Text", SMALL | SLIDING),
}
CLASSES = {"Gemma3": "Gemma3ForConditionalGeneration", "Gemma3Text": "Gemma3ForCausalLM"}
REFUSED = ("Mistral, sliding window", "Gemma3 (text only)")  # under every press
FAILING = {  # in kvpress itself
    (
        "Gemma3 (multimodal)",
        "expected_attention",
    ): "AttributeError in the prefill: 'Gemma3RotaryEmbedding' object has no attribute"
}
WINDOW = (
    "max_new_tokens 12 with a prompt of 110 tokens exceeds the sliding window of 48 "
    "that layers of this model have"
)
LENGTHS = (40, 95, 110)
NEW_TOKENS = 12


@pytest.fixture(scope="module", params=FAMILIES)
def lm(request, embedded):
    name, sizes = FAMILIES[request.param]
    config, model = (
        getattr(transformers, each) for each in (f"{name}Config", CLASSES.get(name, f"{name}ForCausalLM"))
    )
    torch.manual_seed(0)
    random = model(config(**sizes)).eval()
    for weights_name, weights in random.named_parameters():
        # as made, all keys have the same norm, and which a press by norm keeps is rounding
        if "k_norm" in weights_name:
            torch.nn.init.uniform_(weights, 0.5, 1.5)
    return LanguageModel(
        request.param, random, embedded.tokenizer, frozenset({2}), "cpu", "float32", "sdpa", "random"
    )


@pytest.mark.parametrize("press", ("none", *PRESSES))
def test_batched_is_alone_or_refused_with_the_reason(lm, press, record_property):
    outcome = "differs"
    try:
        outcome = compared(lm, press)
    finally:
        record_property(MATRIX, (lm.name, press, outcome))


def compared(lm, press):
    """What becomes of a press on a model, in a word, or a word and the reason."""
    spec = PressSpec(
        press, 0.0 if press == "none" else 0.5, kwargs={"window_size": 16} if press == "snapkv" else {}
    )
    lm, draw = with_attention(lm, spec), torch.Generator().manual_seed(2)
    prompts = [torch.randint(3, 290, (length,), generator=draw).tolist() for length in LENGTHS]
    runs = generate(lm, requests_for(prompts, spec), Settings(NEW_TOKENS, batch_size=2))
    if lm.name in REFUSED and press != "none":
        with pytest.raises(InputError) as caught:
            next(runs)
        assert str(caught.value).startswith(WINDOW)
        return f"refused: {caught.value}"
    outcome = "equal"
    for run in runs:
        prompt, built = prompts[run.index], spec.for_prompt(LENGTHS[run.index])
        if (reason := FAILING.get((lm.name, press))) is not None:
            assert run.error.startswith(reason) and run.stop_reason == "error"
            with pytest.raises(AttributeError):
                alone(lm, prompt, built, run.index, NEW_TOKENS)
            outcome = f"fails: {run.error}"
            continue
        assert run.error is None
        assert run.token_ids == alone(lm, prompt, built, run.index, NEW_TOKENS)
        kept = [layer.keys.shape[2] for layer in kvpress_cache(lm, prompt, built, run.index)[0].layers]
        assert run.cache.kept_tokens == pytest.approx(sum(kept) / len(kept), abs=1e-3)
    return outcome


def test_runs_that_stay_within_the_window_are_not_refused(lm):
    prompt, spec = list(range(3, 33)), PressSpec("streaming_llm", 0.5)
    (run,) = generate(lm, requests_for([prompt], spec), Settings(NEW_TOKENS, batch_size=2))
    assert run.token_ids == alone(lm, prompt, spec.for_prompt(30), 0, NEW_TOKENS)
    if lm.name in REFUSED:  # nor would transformers itself go on from a longer one
        with pytest.raises(RuntimeError, match="size of tensor"):
            alone(lm, list(range(3, 113)), spec.for_prompt(110), 0, NEW_TOKENS)
