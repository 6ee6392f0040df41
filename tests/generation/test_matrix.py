"""Each architecture with small random weights, and each press on the families that kvpress supports: a batch
gives each prompt's own output, or says why not.

The table is printed at the end of the run.
"""

import dataclasses

import numpy as np
import pytest
import torch
import transformers
from architectures import ARCHITECTURES, EQUAL, OFTEN, REFUSED, SMALL, as_lm, built
from reference import MATRIX, Knowing, alone, alone_with_logits, kvpress_cache, requests_for, with_attention

from kvhelpers.errors import InputError
from kvhelpers.generation import batch
from kvhelpers.generation.attention import attention_implementation
from kvhelpers.generation.batched_cache import sliding_windows
from kvhelpers.generation.generate import generate
from kvhelpers.generation.requests import Settings
from kvhelpers.generation.self_check import BOUNDS
from kvhelpers.presses.registry import PRESSES
from kvhelpers.presses.spec import PressSpec

LENGTHS = (40, 95, 110)
SHORT = (30, 22, 27)  # within the windows of 48 tokens, in which presses are allowed
NEW_TOKENS = 12
NONE, STREAMING = PressSpec("none", 0.0), PressSpec("streaming_llm", 0.5)


def prompts_of(lengths):
    draw = torch.Generator().manual_seed(2)
    return [torch.randint(3, 290, (length,), generator=draw).tolist() for length in lengths]


@pytest.mark.parametrize(
    "name", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES]
)
def test_an_architecture_is_equal_to_its_own_whole_passes_or_refused(name, record_property, monkeypatch):
    _, expected, expected_pressed = ARCHITECTURES[name]
    lm, outcome, pressed = as_lm(name, built(name)), "differs", "differs"
    try:
        outcome = outcome_of(lm, NONE, LENGTHS, equal_to_whole_passes, monkeypatch)
        pressed = outcome_of(lm, STREAMING, SHORT, equal_to_alone, monkeypatch)
    finally:
        record_property(MATRIX, (name, "none", outcome))
        record_property(MATRIX, (name, "streaming_llm", pressed))
    assert outcome.partition(":")[0] == expected and pressed.partition(":")[0] == expected_pressed
    if expected == EQUAL and expected_pressed == REFUSED:
        assert "press 'none' is supported" in pressed


def outcome_of(lm, spec, lengths, is_equal, monkeypatch):
    prompts = prompts_of(lengths)
    try:
        plain = list(generate(lm, requests_for(prompts, spec), Settings(NEW_TOKENS, 2, drafts=False)))
        answers = {tuple(prompts[run.index]): run.token_ids for run in plain}
        monkeypatch.setattr(batch, "Drafter", lambda prompt: Knowing(prompt, answers))
        runs = list(generate(lm, requests_for(prompts, spec), Settings(NEW_TOKENS, 2)))
    except InputError as error:
        assert type(lm.model).__name__ in str(error) and "\n" not in str(error)
        assert "supported are architectures" in str(error) or "press 'none' is supported" in str(error)
        return f"{REFUSED}: {error}"
    for run in runs:
        assert run.error is None
        is_equal(lm, prompts[run.index], run, spec.for_prompt(len(prompts[run.index])))
    drafted, accepted = (sum(getattr(run.drafting, name) for run in runs) for name in ("drafted", "accepted"))
    assert len(runs) == len(prompts) and drafted > accepted > len(runs)
    return EQUAL


def equal_to_whole_passes(lm, prompt, run, press):
    """Tokens, and log-probabilities of the twenty best."""
    with torch.no_grad(), attention_implementation(lm.model, "eager"):
        ids = torch.tensor([[*prompt, *run.token_ids[:-1]]])
        logits = lm.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 :].float()
    equal_to(run, logits.argmax(-1).tolist(), logits)


def equal_to_alone(lm, prompt, run, press):
    """Tokens of `generate` alone, and log-probabilities where it needs other layers."""
    if any(sliding_windows(lm.model)) and lm.attn == "eager":
        equal_to(run, *alone_with_logits(windowless(lm), prompt, press, run.index, NEW_TOKENS))
    else:
        assert run.token_ids == alone(lm, prompt, press, run.index, NEW_TOKENS)


def windowless(lm):
    """The same weights without sliding windows, which makes no difference to a text within them: eager
    attention cannot go on from a compressed cache of a layer that has one.
    """
    model = built(lm.name, layer_types=["full_attention"] * ARCHITECTURES[lm.name][0]["num_hidden_layers"])
    assert not any(sliding_windows(model))
    model.load_state_dict(lm.model.state_dict())
    return dataclasses.replace(lm, model=model)


def equal_to(run, tokens, logits):
    assert run.token_ids == tokens
    best = logits.log_softmax(-1).topk(20).values.numpy()
    bound = BOUNDS["float32"] * float(logits.max() - logits.min())
    np.testing.assert_allclose(run.signals["top20_logprob"], best, atol=2 * bound, rtol=0)


VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
}
SLIDING = {"sliding_window": 48, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
FAMILIES = ("Llama", "Mistral", "Mistral, sliding window", "Qwen2", "Qwen3", "Phi3", "Gemma3 (multimodal)")
FAILING = {  # in kvpress itself
    (
        "Gemma3 (multimodal)",
        "expected_attention",
    ): "AttributeError in the prefill: 'Gemma3RotaryEmbedding' object has no attribute"
}
REFUSING = "Mistral, sliding window"  # under every press
WINDOW = (
    "max_new_tokens 12 with a prompt of 110 tokens exceeds the sliding window of 48 "
    "that layers of this model have"
)


@pytest.fixture(scope="module", params=FAMILIES)
def lm(request):
    return as_lm(request.param, family(request.param))


def family(name):
    if name != "Gemma3 (multimodal)":
        window = {"sliding_window": 48 if name == REFUSING else None} if "Mistral" in name else {}
        return built(name.partition(",")[0], **window)
    config = transformers.Gemma3Config(
        text_config=SMALL | SLIDING, vision_config=VISION, image_token_index=299
    )
    torch.manual_seed(0)
    model = transformers.Gemma3ForConditionalGeneration(config).eval()
    for place, weights in model.named_parameters():
        if "k_norm" in place:
            torch.nn.init.uniform_(weights, 0.5, 1.5)
    return model


@pytest.mark.parametrize("press", ("none", *PRESSES))
def test_batched_is_alone_or_refused_with_the_reason(lm, press, record_property):
    outcome = "differs"
    try:
        outcome = compared(lm, press)
    finally:
        record_property(MATRIX, (f"{lm.name} (all)", press, outcome))


def compared(lm, press):
    """What becomes of a press on a model, in a word, or a word and the reason."""
    spec = PressSpec(
        press, 0.0 if press == "none" else 0.5, kwargs={"window_size": 16} if press == "snapkv" else {}
    )
    lm, prompts = with_attention(lm, spec), prompts_of(LENGTHS)
    runs = generate(lm, requests_for(prompts, spec), Settings(NEW_TOKENS, batch_size=2))
    if lm.name == REFUSING and press != "none":
        with pytest.raises(InputError) as caught:
            next(runs)
        assert str(caught.value).startswith(WINDOW)
        return f"{REFUSED}: {caught.value}"
    outcome = EQUAL
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
    prompt = list(range(3, 33))
    (run,) = generate(lm, requests_for([prompt], STREAMING), Settings(NEW_TOKENS, batch_size=2))
    assert run.token_ids == alone(lm, prompt, STREAMING.for_prompt(30), 0, NEW_TOKENS)
    if lm.name == REFUSING:  # nor would transformers itself go on from a longer one
        with pytest.raises(RuntimeError, match="size of tensor"):
            alone(lm, list(range(3, 113)), STREAMING.for_prompt(110), 0, NEW_TOKENS)
