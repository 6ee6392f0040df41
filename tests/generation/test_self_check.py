"""The check of a model finds what is exact exact, and fails on an attention that leaves out a rule."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from architectures import as_lm, built
from reference import requests_for
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from kvhelpers.errors import InputError
from kvhelpers.generation import batched_cache, self_check
from kvhelpers.generation.attention import BATCHED_ATTENTION, batched_attention
from kvhelpers.generation.batched_cache import BatchedCache
from kvhelpers.generation.generate import generate
from kvhelpers.generation.limits import check_limits, length_switch
from kvhelpers.generation.requests import Request, Settings
from kvhelpers.generation.self_check import BOUNDS, check_model
from kvhelpers.models.load import prefill_attention
from kvhelpers.presses.spec import PressSpec

PROMPT = list(range(3, 43))


def leaving_out(monkeypatch, **instead):
    """Let the batch's attention be computed with other options than the architecture gives it."""

    def attention(*args, **options):
        return batched_attention(*args, **options | instead)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, BATCHED_ATTENTION, attention)


@pytest.mark.parametrize("pressed", (False, True))
def test_a_model_is_found_exact(tiny, pressed):
    outcome = check_model(tiny, pressed)
    assert 0 < outcome.deviation < outcome.bound == 1e-4
    assert (outcome.attn, outcome.pressed) == ("sdpa", pressed)


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("Llama", {"scaling": 1.0}),
        ("Qwen3", {"scaling": 0.1}),
        ("Gemma2", {"softcap": None}),
        ("Gemma2", {"softcap": 50.0}),
        ("GptOss", {"s_aux": None}),
        ("GptOss", {"scaling": 1.0}),
    ],
)
def test_an_attention_that_leaves_out_a_rule_is_found(monkeypatch, name, instead):
    lm = as_lm(name, built(name))
    leaving_out(monkeypatch, **instead)
    with pytest.raises(InputError, match=f"logits of {name}ForCausalLM .* differ from its own by"):
        list(generate(lm, requests_for([PROMPT], PressSpec("none", 0.0)), Settings(4, batch_size=1)))


def test_a_window_that_is_left_out_is_found(monkeypatch):
    lm = as_lm("Mistral", built("Mistral"))
    monkeypatch.setattr(batched_cache, "sliding_windows", lambda model: [None] * 3)
    with pytest.raises(InputError, match="MistralForCausalLM .* differ from its own"):
        check_model(lm)


def test_a_cache_at_wrong_positions_is_found_also_where_only_a_press_makes_them_wrong(monkeypatch):
    lm, step = as_lm("Llama", built("Llama")), BatchedCache.step

    def shifted(self, model, fed, positions, *last):
        short = self.lengths[0][0] < positions[0]  # something was removed
        return step(self, model, fed, [place - short for place in positions], *last)

    monkeypatch.setattr(BatchedCache, "step", shifted)
    check_model(lm)
    with pytest.raises(InputError, match="not supported under a press: .* press 'none' is supported on it"):
        check_model(lm, pressed=True)


def test_sdpa_is_refused_where_it_leaves_out_a_rule_and_auto_means_eager():
    for name, rule in (("Gemma2", "the cap of its attention's scores"), ("GptOss", "the sinks")):
        model = built(name)
        assert prefill_attention(model, "auto") == "eager"
        with pytest.raises(InputError, match=f"attn 'sdpa' is not allowed with {name}ForCausalLM: .*{rule}"):
            check_model(as_lm(name, model, attn="sdpa"))
    assert prefill_attention(built("Gemma2", attn_logit_softcapping=None), "auto") == "sdpa"


def test_auto_means_eager_where_sdpa_gives_other_logits(monkeypatch):
    sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]
    monkeypatch.setitem(
        ALL_ATTENTION_FUNCTIONS, "sdpa", lambda *args, **more: sdpa(*args, **more | {"scaling": 1})
    )
    model = built("Llama")
    assert prefill_attention(model, "auto") == "eager" and prefill_attention(model, "sdpa") == "sdpa"
    check_model(as_lm("Llama", model, attn="eager"))
    with pytest.raises(InputError, match="prefilled under attn 'sdpa', differ from its own"):
        check_model(as_lm("Llama", model, attn="sdpa"))
    monkeypatch.undo()
    assert prefill_attention(built("Llama"), "auto") == "sdpa"


@pytest.mark.parametrize("given", ({"indices": torch.ones(1)}, {"attention_mask": torch.ones(1)}))
def test_what_an_architecture_gives_its_attention_and_is_not_known_is_refused(given):
    module = torch.nn.Linear(1, 1)
    module.layer_idx = 0
    with pytest.raises(InputError, match=f"Linear gives its attention {next(iter(given))}, which is"):
        batched_attention(module, *[torch.ones(1, 1, 1, 1)] * 3, given.pop("attention_mask", None), **given)


def test_an_outcome_is_kept_until_the_code_changes(tiny, monkeypatch, tmp_path):
    monkeypatch.setenv("KVHELPERS_CACHE", str(tmp_path))
    lm, computed = dataclasses.replace(tiny, source="folder:/here#0"), []
    compute = self_check._computed
    monkeypatch.setattr(self_check, "_computed", lambda *args: computed.append(1) or compute(*args))

    def checked():
        self_check._known.clear()
        return check_model(lm)

    first = checked()
    assert checked() == first and len(computed) == 1
    (kept,) = tmp_path.rglob("*.json")
    kept.write_text("{")  # not whole: computed again
    assert checked() == first and len(computed) == 2
    monkeypatch.setattr(self_check, "code_hash", lambda: "another")
    assert checked() == first and len(computed) == 3
    self_check._known.clear()


def test_half_precision_has_a_bound_of_its_own(tiny):
    for dtype in ("bfloat16", "float16"):
        lm = as_lm("half", built("Llama", initializer_range=0.1).to(getattr(torch, dtype)))
        lm = dataclasses.replace(lm, dtype=dtype)
        assert 1e-4 < check_model(lm, pressed=True).deviation < BOUNDS[dtype]


@pytest.mark.parametrize("dtype", ("bfloat16", "float16"))
def test_half_precision_does_not_hide_a_rule_of_small_effect(monkeypatch, dtype):
    model = built("Llama", initializer_range=0.1).to(getattr(torch, dtype))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    lm = dataclasses.replace(as_lm("half", model), dtype=dtype)
    leaving_out(monkeypatch, scaling=0.251)  # it is .25
    with monkeypatch.context() as alone:
        alone.setattr(self_check, "HALF", {})
        check_model(lm)
    self_check._known.clear()
    with pytest.raises(InputError, match="differ from its own by .* where 0.0001 is allowed in float32"):
        check_model(lm)
    after = model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert {tensor.dtype for tensor in after.values()} == {getattr(torch, dtype)}


def test_without_memory_for_float32_a_model_in_half_precision_runs_with_a_warning(monkeypatch, tmp_path):
    monkeypatch.setenv("KVHELPERS_CACHE", str(tmp_path))
    model = built("Llama", initializer_range=0.1).to(torch.bfloat16)
    lm = dataclasses.replace(as_lm("half", model), dtype="bfloat16", source="folder:/here#0")
    with monkeypatch.context() as little:
        little.setattr(self_check.psutil, "virtual_memory", lambda: SimpleNamespace(available=0))
        with pytest.warns(UserWarning, match="'half' could not be checked with its weights in float32"):
            assert check_model(lm).exact_deviation is None
    assert not [*tmp_path.rglob("*.json")]  # it is tried again
    self_check._known.clear()
    assert check_model(lm).exact_deviation < BOUNDS["float32"] and [*tmp_path.rglob("*.json")]


@pytest.mark.parametrize(
    ("name", "changes", "switch"),
    [
        ("Llama4Text", {"attention_chunk_size": 64}, "attends in chunks"),
        (
            "Phi3",
            {
                "original_max_position_embeddings": 64,
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 10000.0,
                    "short_factor": [1.0] * 8,
                    "long_factor": [4.0] * 8,
                    "original_max_position_embeddings": 64,
                },
            },
            "has another rotary table",
        ),
    ],
)
def test_runs_that_may_cross_a_change_with_length_are_refused(name, changes, switch):
    model = built(name, **changes)
    assert length_switch(model)[0] == 64
    check_limits(model, [Request(PROMPT, None, 0)], 24)
    with pytest.raises(InputError, match=f"max_new_tokens 25 .* exceeds 64 tokens, beyond which .* {switch}"):
        check_limits(model, [Request(PROMPT, None, 0)], 25)
    check_model(as_lm(name, model))


def test_presses_are_refused_by_name_where_they_do_not_find_the_layers():
    request = Request(PROMPT, PressSpec("knorm", 0.5).for_prompt(40), 0)
    with pytest.raises(InputError, match="'KnormPress' is not supported on GPT2LMHeadModel: .* 'none' is"):
        check_limits(built("GPT2"), [request], 4)
