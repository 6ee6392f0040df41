"""GGUF files beside the models that were written to them; what would be left out is refused by its name."""

import numpy as np
import pytest
import torch
from gguf import MODEL_ARCH_NAMES, GGUFWriter, get_tensor_name_map
from tiny_gguf import write_tokenizer
from tokenizers import Regex, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)
from transformers.convert_slow_tokenizer import Qwen2Converter, TikTokenConverter
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from kvhelpers.errors import InputError
from kvhelpers.models.gguf_meaning import ARCHITECTURES
from kvhelpers.models.load import load_model
from kvhelpers.models.source import EMBEDDED, find_wheel_file

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "vocab_size": 261,
    "rope_theta": 30000.0,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
# transformers reads no sizes of experts, so that only its own defaults are not refused
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
EXPERT_SIZES = {"qwen2moe": 1408, "qwen3moe": 768}
MODELS = {
    "llama": lambda **more: LlamaForCausalLM(LlamaConfig(**SIZES, **more)),
    "qwen2": lambda **more: Qwen2ForCausalLM(Qwen2Config(**SIZES, **more)),
    "qwen3": lambda **more: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=128, **more)),
    "qwen2moe": lambda **more: Qwen2MoeForCausalLM(
        Qwen2MoeConfig(**SIZES, **EXPERTS, norm_topk_prob=False, **more)
    ),
    "qwen3moe": lambda **more: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**SIZES, **EXPERTS, head_dim=32, norm_topk_prob=True, **more)
    ),
}


def permuted(weights, heads):
    """Rows of a Llama's queries or keys in the order of rotary pairs, as llama.cpp has them."""
    halves = weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return halves.swapaxes(1, 2).reshape(weights.shape)


def tensors(model, architecture):
    """A model's weights by the names and in the order of GGUF files."""
    arch = next(key for key, value in MODEL_ARCH_NAMES.items() if value == architecture)
    config, names = model.config, get_tensor_name_map(arch, model.config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        weight = weight.numpy()
        if name.endswith("experts.gate_up_proj"):
            block = f"blk.{name.split('.')[2]}"
            half = weight.shape[1] // 2
            yield f"{block}.ffn_gate_exps.weight", weight[:, :half]
            yield f"{block}.ffn_up_exps.weight", weight[:, half:]
            continue
        base, _, kind = name.rpartition(".") if name.endswith((".weight", ".bias")) else (name, "", "weight")
        ours = names.get_name(base)
        if architecture == "llama" and ours.endswith(("attn_q", "attn_k")):
            heads = config.num_attention_heads if ours.endswith("q") else config.num_key_value_heads
            weight = permuted(weight, heads)
        yield f"{ours}.{kind}", weight.squeeze(0) if ours.endswith("ffn_gate_inp_shexp") else weight


def written(path, architecture, pre="qwen2", keys=(), without=(), more=(), tokenizer=(), **changes):
    """A random model, and the path of the file that it was written to; ``keys``, ``tokenizer`` and tensors
    ``more`` are in it beside its own, those of ``without`` not.
    """
    torch.manual_seed(0)
    model = MODELS[architecture](**changes).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    config, writer = model.config, GGUFWriter(path, architecture)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    said = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": config.rope_parameters["rope_theta"],
        "rope.dimension_count": head_dim,
        "vocab_size": config.vocab_size,
    }
    if "moe" in architecture:
        said |= {"expert_count": 4, "expert_used_count": 2}
        said |= {"expert_feed_forward_length": EXPERT_SIZES[architecture]}
    if architecture == "qwen2moe":
        said |= {"expert_shared_feed_forward_length": 5632}
    for key, value in (said | dict(keys)).items():
        if key in without:
            continue
        name = key if key.startswith(("general.", "tokenizer.", "other.")) else f"{architecture}.{key}"
        kind = {bool: "bool", int: "uint32", float: "float32", str: "string"}.get(type(value), "array")
        getattr(writer, f"add_{kind}")(name, value)
    write_tokenizer(writer, pre, **dict(tokenizer))
    for name, weight in [*tensors(model, architecture), *dict(more).items()]:
        if name not in without:
            writer.add_tensor(name, np.ascontiguousarray(weight, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model, path


def logits(model, n=40):
    ids = torch.randint(3, 250, (1, n), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return model(input_ids=ids).logits


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_model_is_the_one_that_was_written(tmp_path, cache, architecture, tied):
    without = ("output.weight",) if tied else ()
    model, path = written(tmp_path / "tiny.gguf", architecture, without=without)
    if tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    loaded = load_model(str(path), device="cpu", dtype="float32")
    torch.testing.assert_close(logits(loaded.model), logits(model), rtol=1e-5, atol=1e-5)


def test_what_a_file_leaves_out_means_what_it_means_elsewhere(tmp_path, cache):
    without = ("rope.dimension_count", "attention.key_length", "attention.value_length", "vocab_size")
    model, path = written(tmp_path / "tiny.gguf", "llama", without=without)
    loaded = load_model(str(path), device="cpu", dtype="float32")
    torch.testing.assert_close(logits(loaded.model), logits(model), rtol=1e-5, atol=1e-5)


ALTERED = [
    (
        "llama",
        {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0},
        "llama.rope.scaling.factor, which is",
    ),
    ("llama", {"rope.scaling.type": "linear"}, "its rope.scaling.type is 'linear', but the model .* 'none'"),
    ("llama", {"rope.dimension_count": 8}, "attention.key_length is 16, but .* has 8"),
    ("qwen2", {"rope.dimension_count": 8}, "its rope.dimension_count is 8, but the model made of it has 16"),
    ("qwen3", {"attention.key_length": 64}, "its attention.key_length is 64, but .* has 128"),
    ("llama", {"attention.sliding_window": 64}, "its attention.sliding_window is 64, but .* has None"),
    ("qwen2", {"attention.sliding_window": 64}, "its attention.sliding_window is 64, but .* has None"),
    ("llama", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0, but .* has None"),
    ("llama", {"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0, but .* has None"),
    ("llama", {"expert_count": 8, "expert_used_count": 2}, "its expert_count is 8, but .* has None"),
    ("llama", {"attention.scale": 0.5}, "metadata have llama.attention.scale, which is not read"),
    ("llama", {"logit_scale": 2.0}, "metadata have llama.logit_scale, which is not read"),
    ("llama", {"embedding_scale": 2.0}, "metadata have llama.embedding_scale, which is not read"),
    ("llama", {"attention.causal": False}, "its attention.causal is False, but .* has True"),
    ("llama", {"never.heard.of": 1}, "metadata have llama.never.heard.of, which is not read"),
    ("qwen3moe", {"expert_weights_norm": False}, "its expert_weights_norm is False, but .* has True"),
    ("qwen3moe", {"expert_weights_scale": 2.0}, "metadata have qwen3moe.expert_weights_scale"),
    ("qwen2moe", {"expert_feed_forward_length": 64}, "expert_feed_forward_length is 64, but|another shape"),
    (
        "llama",
        {"attention.head_count_kv": [2, 1]},
        r"llama.attention.head_count_kv is \[2, 1\]; one value for",
    ),
    ("llama", {"other.key": 1}, "metadata have other.key, which is not read"),
    ("llama", {"general.type": "adapter"}, "general.type is 'adapter', which is no model"),
]


@pytest.mark.parametrize(("architecture", "keys", "sentence"), ALTERED)
def test_a_key_that_would_be_left_out_is_named(tmp_path, cache, architecture, keys, sentence):
    _, path = written(tmp_path / "tiny.gguf", architecture, keys=keys)
    with pytest.raises(InputError, match=f"tiny.gguf cannot be read as GGUF: .*({sentence})"):
        load_model(str(path), device="cpu")
    assert not list(cache.glob("*/"))


@pytest.mark.parametrize(
    ("without", "sentence"),
    [
        (["rope.freq_base"], "rope.freq_base is not given, which means 10000.0, but|rope.freq_base"),
        (["attention.layer_norm_rms_epsilon"], "lack llama.attention.layer_norm_rms_epsilon"),
        (["attention.head_count_kv"], "describe a model of 1.* weights, but it holds"),
        (["attention.head_count"], "lack llama.attention.head_count"),
        (["context_length"], "lack llama.context_length"),
    ],
)
def test_a_missing_key_is_not_filled_up_with_another_model_s(tmp_path, cache, without, sentence):
    _, path = written(tmp_path / "tiny.gguf", "llama", without=without)
    if without == ["rope.freq_base"]:  # what llama.cpp takes is what the model has, and not its own 30,000
        assert load_model(str(path), device="cpu").model.config.rope_parameters["rope_theta"] == 10000
        return
    with pytest.raises(InputError, match=sentence):
        load_model(str(path), device="cpu")


@pytest.mark.parametrize(
    ("architecture", "name", "shape"),
    [
        ("llama", "blk.0.attn_q.bias", (64,)),
        ("llama", "blk.1.attn_output.bias", (64,)),
        ("llama", "blk.0.attn_q_norm.weight", (16,)),
        ("qwen2", "blk.0.attn_output.bias", (64,)),
        ("qwen3", "blk.0.attn_k.bias", (256,)),
        ("llama", "blk.0.attn_sinks.weight", (4,)),
        ("llama", "output.bias", (261,)),
        ("llama", "anything", (3,)),
    ],
)
def test_a_tensor_that_would_be_left_out_is_named(tmp_path, cache, architecture, name, shape):
    _, path = written(tmp_path / "tiny.gguf", architecture, more={name: np.ones(shape)})
    with pytest.raises(InputError, match=f"its tensor {name} is not read, so that it would be left out"):
        load_model(str(path), device="cpu")


def rope_factors(factor, head_dim=64, **changes):
    """Llama 3's divisors, from its own definition in transformers."""
    rope = {"rope_theta": 30000.0, "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192} | changes
    config = LlamaConfig(hidden_size=64, num_attention_heads=4, head_dim=head_dim, rope_parameters=rope)
    plain = 30000.0 ** -(np.arange(0, head_dim, 2) / head_dim)
    return plain / ROPE_INIT_FUNCTIONS["llama3"](config)[0].double().numpy(), rope


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama_3_s_rotary_factors_reach_the_model(tmp_path, cache, factor):
    factors, rope = rope_factors(factor)
    model, path = written(
        tmp_path / "tiny.gguf", "llama", pre="llama-bpe", head_dim=64, more={"rope_freqs.weight": factors}
    )
    loaded = load_model(str(path), device="cpu", dtype="float32").model
    assert loaded.config.rope_parameters == rope
    same = LlamaForCausalLM(LlamaConfig(**{**SIZES, "rope_parameters": rope}, head_dim=64)).eval()
    same.load_state_dict(model.state_dict())
    torch.testing.assert_close(logits(loaded, 400), logits(same, 400), rtol=1e-5, atol=1e-5)
    assert (logits(loaded, 400) - logits(model, 400)).abs().max() > 1e-3  # without them it is another model


@pytest.mark.parametrize(
    "factors",
    [
        rope_factors(8.0, original_max_position_embeddings=4096)[0],
        rope_factors(8.0, high_freq_factor=8.0)[0],
        np.full(32, 2.0),
        np.ones(16),
        rope_factors(8.0)[0] * (1 + 1e-4),
    ],
)
def test_other_rotary_factors_are_refused(tmp_path, cache, factors):
    _, path = written(tmp_path / "tiny.gguf", "llama", head_dim=64, more={"rope_freqs.weight": factors})
    with pytest.raises(InputError, match="its tensor rope_freqs.weight has other factors than Llama 3's"):
        load_model(str(path), device="cpu")


def test_factors_of_one_are_none(tmp_path, cache):
    model, path = written(tmp_path / "tiny.gguf", "llama", more={"rope_freqs.weight": np.ones(8)})
    loaded = load_model(str(path), device="cpu", dtype="float32").model
    assert loaded.config.rope_parameters == model.config.rope_parameters


def test_architectures_that_nobody_has_compared_are_refused(tmp_path, cache):
    path = tmp_path / "tiny.gguf"
    writer = GGUFWriter(path, "stablelm")
    writer.add_block_count(1)
    write_tokenizer(writer, "qwen2")
    writer.add_tensor("blk.0.attn_norm.weight", np.ones(4, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match="general.architecture 'stablelm' is not supported"):
        load_model(str(path), device="cpu")


TEXT = "It's 12345 ROSES, x=3.5 — 東京\r\n\n\t  naïve  e\u0301\u00e9 don'T   \n 7 "


def pieces(loaded):
    return [text for text, _ in loaded.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(TEXT)]


def test_the_pre_tokenizer_is_the_one_that_the_file_names(tmp_path, cache):
    """Against the definitions that transformers carries for the same families."""
    known = {
        "qwen2": Qwen2Converter.converted(SimpleTokenizer(), {"a": 0, "aa": 1}, [("a", "a")]).pre_tokenizer,
        "llama-bpe": pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(TikTokenConverter("").pattern), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        ),
        "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
        "smollm": pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        ),
    }
    seen = {}
    for name, expected in known.items():
        loaded = load_model(str(written(tmp_path / f"{name}.gguf", "llama", pre=name)[1]), device="cpu")
        seen[name] = pieces(loaded)
        assert seen[name] == [text for text, _ in expected.pre_tokenize_str(TEXT)]
        assert (
            loaded.tokenizer.decode(loaded.tokenizer.encode("It's 12345 — 東京\n")) == "It's 12345 — 東京\n"
        )
        composed = loaded.tokenizer.encode("e\u0301") == loaded.tokenizer.encode("\u00e9")
        assert composed == (name == "qwen2")  # alone it has a normalizer
    assert len({str(parts) for parts in seen.values()}) == 4


class SimpleTokenizer:
    """What Qwen2Converter asks of itself."""

    original_tokenizer = object()


def test_tokens_are_what_the_file_says(tmp_path, cache):
    tokens = {"added": {"<tool>": 4, "<|eot|>": 3}, "ids": {"eot": 258, "eos": 2}}
    _, path = written(tmp_path / "tiny.gguf", "llama", pre="llama-bpe", tokenizer=tokens)
    loaded = load_model(str(path), device="cpu")
    assert loaded.tokenizer.tokenize("a<tool>b<|eot|>") == ["a", "<tool>", "b", "<|eot|>"]
    assert "<|eot|>" in loaded.tokenizer.all_special_tokens or 258 in loaded.tokenizer.added_tokens_decoder
    assert loaded.stop_ids == {2, 258}


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (
            {"pre": "deepseek-llm"},
            r"tokenizer.ggml.pre 'deepseek-llm' is not supported \(allowed: gpt-2, smoll",
        ),
        ({"pre": "default"}, "tokenizer.ggml.pre 'default' is not supported"),
        ({"pre": None}, "metadata lack tokenizer.ggml.pre"),
        ({"model": "llama"}, r"tokenizer.ggml.model 'llama' is not supported \(allowed: gpt2\)"),
        ({"more": {"add_space_prefix": True}}, "tokenizer.ggml.add_space_prefix True is not supported"),
        ({"more": {"remove_extra_whitespaces": True}}, "have tokenizer.ggml.remove_extra_whitespaces, which"),
        ({"added": {"<0x00>": 6, "<x>": 1}}, "tokenizer.ggml.token_type 6 is not supported"),
    ],
)
def test_another_tokenizer_is_refused(tmp_path, cache, keys, sentence):
    pre = keys.pop("pre", "qwen2")
    _, path = written(tmp_path / "tiny.gguf", "llama", pre=pre, tokenizer=keys)
    with pytest.raises(InputError, match=sentence):
        load_model(str(path), device="cpu")


def test_the_embedded_model_s_file_says_nothing_that_is_left_out():
    from gguf import GGUFReader

    from kvhelpers.models.gguf_tokenizer import check_tokenizer

    fields = GGUFReader(find_wheel_file(EMBEDDED["smollm2-135m"])).fields
    check_tokenizer({key: field.contents() for key, field in fields.items()})
