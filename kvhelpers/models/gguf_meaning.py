"""Whether all that a GGUF file says about the computation reaches the model that transformers makes of it.

transformers drops what it does not read without a word. Here every metadata key and every tensor is either
known to be read, and compared with the model's configuration, or known not to change the computation; the
file is refused by the name of any other. The keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_gguf_pytorch_utils import (
    TENSOR_PROCESSORS,
    TensorProcessor,
    get_gguf_hf_weights_map,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from kvhelpers.errors import InputError, shown

# their conversion is compared with the model that was written to the file, tests/models/test_gguf_meaning.py
ARCHITECTURES = ("llama", "qwen2", "qwen3", "qwen2moe", "qwen3moe")
SILENT = (
    "GGUF.",
    "general.",
    "quantize.",
    "tokenizer.",
)  # the tokenizer's own are looked at in `gguf_tokenizer`
ROPE_FACTORS = "rope_freqs.weight"  # what rotary frequencies are divided by
LLAMA3 = {  # of all Llama 3.1 and 3.2, but the factor
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
ROUNDING = 1e-6  # two roundings to float32


def _head_dim(config: PreTrainedConfig) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _rope(config: PreTrainedConfig, key: str, default: Any) -> Any:
    return config.rope_parameters.get(key, default)


def _attribute(name: str) -> Callable[[PreTrainedConfig], Any]:
    return lambda config: getattr(config, name, None)


KEYS: dict[str, Callable[[PreTrainedConfig], Any]] = {
    "context_length": _attribute("max_position_embeddings"),
    "embedding_length": _attribute("hidden_size"),
    "block_count": _attribute("num_hidden_layers"),
    "feed_forward_length": _attribute("intermediate_size"),
    "vocab_size": _attribute("vocab_size"),
    "attention.head_count": _attribute("num_attention_heads"),
    "attention.head_count_kv": _attribute("num_key_value_heads"),
    "attention.key_length": _head_dim,
    "attention.value_length": _head_dim,
    "attention.layer_norm_rms_epsilon": _attribute("rms_norm_eps"),
    "attention.causal": lambda config: True,
    "attention.sliding_window": _attribute("sliding_window"),
    "attn_logit_softcapping": _attribute("attn_logit_softcapping"),
    "final_logit_softcapping": _attribute("final_logit_softcapping"),
    "rope.dimension_count": lambda config: int(_head_dim(config) * _rope(config, "partial_rotary_factor", 1)),
    "rope.freq_base": lambda config: _rope(config, "rope_theta", None),
    "rope.scaling.type": lambda config: {"default": "none"}.get(kind := _rope(config, "rope_type", ""), kind),
    "expert_count": _attribute("num_experts"),
    "expert_used_count": _attribute("num_experts_per_tok"),
    "expert_feed_forward_length": _attribute("moe_intermediate_size"),
    "expert_shared_feed_forward_length": _attribute("shared_expert_intermediate_size"),
    "expert_weights_norm": _attribute("norm_topk_prob"),
}
NEEDED = (  # without them transformers takes a large model's values
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "attention.head_count",
    "attention.layer_norm_rms_epsilon",
)


def own_values(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """An architecture's own metadata, by `KEYS`, of all of a file's.

    Raises
    ------
    InputError : an architecture, a kind of file or a key that is not read, a key that is missing, or one that
        has a value for each layer.
    """
    architecture = metadata["general.architecture"]
    if architecture not in ARCHITECTURES:
        raise InputError(
            f"its general.architecture {shown(architecture)} is not supported (allowed: "
            f"{', '.join(ARCHITECTURES)})"
        )
    if (kind := metadata.get("general.type", "model")) != "model":
        raise InputError(f"its general.type is {shown(kind)}, which is no model")
    own, values = f"{architecture}.", {}
    for key, value in metadata.items():
        if key.startswith(own) and key.removeprefix(own) in KEYS:
            values[key.removeprefix(own)] = value
        elif not key.startswith(SILENT):
            raise InputError(f"its metadata have {key}, which is not read, so that it would be left out")
        if key.startswith(own) and isinstance(value, list):
            raise InputError(f"its {key} is {shown(value)}; one value for all layers is supported")
    for key in NEEDED:
        if key not in values:
            raise InputError(f"its metadata lack {own}{key}")
    return values


def check_values(values: Mapping[str, Any], config: PreTrainedConfig) -> None:
    """Compare `own_values` with the configuration that transformers makes of the same file.

    What a file leaves out means what it means in llama.cpp: as many key heads as heads, a rotary base of
    10,000 over the whole head, no scaling.

    Raises
    ------
    InputError : a value is not the configuration's.
    """
    heads = values["attention.head_count"]
    unsaid = {
        "attention.head_count_kv": heads,
        "rope.freq_base": 10000.0,
        "rope.scaling.type": "none",
        "rope.dimension_count": values.get("attention.key_length", values["embedding_length"] // heads),
    }
    for key, value in (unsaid | values).items():
        if not _same(value, made := KEYS[key](config)):
            said = f"is {shown(value)}" if key in values else f"is not given, which means {value}"
            raise InputError(f"its {key} {said}, but the model made of it has {shown(made)}")


def _same(said: Any, made: Any) -> bool:
    if isinstance(said, float) and isinstance(made, (int, float)):
        return np.float32(said) == np.float32(made)
    return said == made


def check_tensors(names: Iterable[str], architecture: str, model: PreTrainedModel) -> None:
    """Check that transformers reads every tensor of a file into a model (on any device), but `ROPE_FACTORS`.

    Raises
    ------
    InputError : a tensor that it leaves out.
    """
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=model.config.to_dict())
    read = set(get_gguf_hf_weights_map(model, processor))
    for name in names:
        expert = re.fullmatch(r"(blk\.\d+\.ffn_(?:gate|down|up)_exps)\.weight", name)
        if name not in read and not (expert and expert[1] in read) and name != ROPE_FACTORS:
            raise InputError(f"its tensor {name} is not read, so that it would be left out")


def rope_parameters(factors: np.ndarray, config: PreTrainedConfig) -> dict[str, Any]:
    """Rotary parameters, Llama 3's, that give the frequencies which a file's ``factors`` divide.

    Raises
    ------
    InputError : they give others.
    """
    base = config.rope_parameters
    known = [base, {**base, **LLAMA3, "factor": round(float(factors.max()), 4)}]
    length = _head_dim(config)
    plain = base["rope_theta"] ** -(np.arange(0, length, 2) / length)
    for parameters in known if factors.shape == plain.shape else ():
        if np.allclose(_frequencies(config, parameters), plain / factors, rtol=ROUNDING, atol=0):
            return parameters
    raise InputError(f"its tensor {ROPE_FACTORS} has other factors than Llama 3's rotary scaling")


def _frequencies(config: PreTrainedConfig, parameters: dict[str, Any]) -> np.ndarray:
    """Inverse frequencies of a configuration with some rotary parameters, as its model computes them."""
    if parameters["rope_type"] == "default":
        length = _head_dim(config)
        exponents = torch.arange(0, length, 2, dtype=torch.int64).float() / length
        return (1.0 / parameters["rope_theta"] ** exponents).double().numpy()
    scaled = type(config)(**{**config.to_dict(), "rope_parameters": parameters})
    return ROPE_INIT_FUNCTIONS[parameters["rope_type"]](scaled)[0].double().numpy()
