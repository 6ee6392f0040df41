"""Architectures that transformers can build with small random weights, and what becomes of each here.

Weights as they are initialised make attention flat, so that a rule that is left out shows in nothing: queries
and keys are made three times as large, or, where there are sinks, these are thirty.
"""

import torch
import transformers

from kvhelpers.models.load import LanguageModel, prefill_attention

SMALL = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "initializer_range": 0.3,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}
ALL_KEYS = SMALL | {"num_key_value_heads": 4}
HEADLESS = {name: value for name, value in SMALL.items() if name != "head_dim"}
GPT = {"vocab_size": 300, "n_embd": 64, "n_layer": 3, "n_head": 4, "initializer_range": 0.3}
MOE = SMALL | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LOCAL = SMALL | {"num_local_experts": 4}
WINDOW = SMALL | {"sliding_window": 48}
MLA = {
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "head_dim": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
}
# tried whenever tests run: a rule or a fault of each kind; the others with -m slow
OFTEN = (
    "Cohere2",
    "DeepseekV3",
    "Gemma",
    "Gemma2",
    "Gemma3Text",
    "Glm4",
    "GPT2",
    "GPTNeoX",
    "GptOss",
    "Granite",
    "Llama",
    "Llama4Text",
    "Mistral",
    "Mixtral",
    "Olmo2",
    "OPT",
    "Phi",
    "Phi3",
    "Qwen2",
    "Qwen2Moe",
    "Qwen3",
    "Qwen3Moe",
    "SmolLM3",
    "StableLm",
    "Starcoder2",
    "Lfm2",
    "Mamba",
    "Qwen3Next",
    "Bloom",
    "Falcon",
    "GPTJ",
    "Nemotron",
)
EQUAL, REFUSED = "equal", "refused"
# by class name without its ending: configuration, and what becomes of it without and with a press
ARCHITECTURES = {
    "Apertus": (SMALL, EQUAL, EQUAL),
    "Arcee": (SMALL, EQUAL, EQUAL),
    "BioGpt": (ALL_KEYS, EQUAL, REFUSED),
    "Cohere": (SMALL, EQUAL, EQUAL),
    "Cohere2": (WINDOW, EQUAL, EQUAL),
    "Cwm": (WINDOW, EQUAL, EQUAL),
    "DeepseekV2": (ALL_KEYS | MLA, EQUAL, REFUSED),
    "DeepseekV3": (ALL_KEYS | MLA, EQUAL, REFUSED),
    "Ernie4_5": (SMALL, EQUAL, EQUAL),
    "Exaone4": (WINDOW, EQUAL, EQUAL),
    "Gemma": (SMALL, EQUAL, EQUAL),
    "Gemma2": (WINDOW | {"attn_logit_softcapping": 5.0}, EQUAL, EQUAL),
    "Gemma3Text": (
        WINDOW | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
        EQUAL,
        EQUAL,
    ),
    "Glm": (SMALL, EQUAL, EQUAL),
    "Glm4": (SMALL, EQUAL, EQUAL),
    "GPT2": (GPT, EQUAL, REFUSED),
    "GPTBigCode": (GPT, EQUAL, REFUSED),
    "GPTNeoX": (HEADLESS, EQUAL, REFUSED),
    "GptOss": (LOCAL | {"sliding_window": 48}, EQUAL, EQUAL),
    "Granite": (SMALL, EQUAL, EQUAL),
    "GraniteMoe": (LOCAL, EQUAL, EQUAL),
    "Helium": (SMALL, EQUAL, EQUAL),
    "HunYuanDenseV1": (SMALL, EQUAL, EQUAL),
    "JetMoe": (SMALL, EQUAL, REFUSED),
    "Llama": (SMALL, EQUAL, EQUAL),
    "Llama4Text": (LOCAL | {"attention_chunk_size": 128, "intermediate_size_mlp": 96}, EQUAL, EQUAL),
    "Ministral": (WINDOW, EQUAL, EQUAL),
    "Ministral3": (SMALL, EQUAL, EQUAL),
    "Mistral": (WINDOW, EQUAL, EQUAL),
    "Mixtral": (LOCAL, EQUAL, EQUAL),
    "NanoChat": (SMALL, EQUAL, EQUAL),
    "Olmo": (SMALL, EQUAL, EQUAL),
    "Olmo2": (SMALL, EQUAL, EQUAL),
    "Olmo3": (WINDOW, EQUAL, EQUAL),
    "Olmoe": (MOE, EQUAL, EQUAL),
    "OPT": (
        {
            "vocab_size": 300,
            "hidden_size": 64,
            "ffn_dim": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "word_embed_proj_dim": 64,
            "init_std": 0.3,
        },
        EQUAL,
        REFUSED,
    ),
    "Persimmon": (ALL_KEYS, EQUAL, EQUAL),
    "Phi": (SMALL, EQUAL, EQUAL),
    "Phi3": (SMALL, EQUAL, EQUAL),
    "Phimoe": (LOCAL, EQUAL, EQUAL),
    "Qwen2": (SMALL, EQUAL, EQUAL),
    "Qwen2Moe": (MOE | {"shared_expert_intermediate_size": 32}, EQUAL, EQUAL),
    "Qwen3": (SMALL, EQUAL, EQUAL),
    "Qwen3Moe": (MOE, EQUAL, EQUAL),
    "SeedOss": (SMALL, EQUAL, EQUAL),
    "SmolLM3": (SMALL, EQUAL, EQUAL),
    "StableLm": (SMALL, EQUAL, EQUAL),
    "Starcoder2": (WINDOW, EQUAL, EQUAL),
    "VaultGemma": (WINDOW | {"attn_logit_softcapping": 5.0}, EQUAL, EQUAL),
    # recurrent layers
    "Bamba": (SMALL | {"mamba_n_heads": 8, "mamba_d_head": 16, "attn_layer_indices": [1]}, REFUSED, REFUSED),
    "Jamba": (
        LOCAL | {"use_mamba_kernels": False, "attn_layer_period": 2, "attn_layer_offset": 1},
        REFUSED,
        REFUSED,
    ),
    "Lfm2": (SMALL | {"full_attn_idxs": [1]}, REFUSED, REFUSED),
    "Mamba": ({"vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 2}, REFUSED, REFUSED),
    "Mamba2": (
        {"vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 2, "head_dim": 16, "num_heads": 8},
        REFUSED,
        REFUSED,
    ),
    "MiniMax": (LOCAL, REFUSED, REFUSED),
    "Qwen3Next": (
        MOE
        | {
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
            "shared_expert_intermediate_size": 32,
        },
        REFUSED,
        REFUSED,
    ),
    "RecurrentGemma": (HEADLESS | {"attention_window_size": 48}, REFUSED, REFUSED),
    "Rwkv": ({"vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 2}, REFUSED, REFUSED),
    # attention that does not go through the interface, or biases of its own
    "Bloom": (
        {"vocab_size": 300, "hidden_size": 64, "n_layer": 3, "n_head": 4, "initializer_range": 0.3},
        REFUSED,
        REFUSED,
    ),
    "CodeGen": (GPT | {"rotary_dim": 8}, REFUSED, REFUSED),
    "DiffLlama": (SMALL, REFUSED, REFUSED),
    "Doge": (SMALL | {"keep_window_size": 16}, REFUSED, REFUSED),
    "Falcon": (
        {"vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4},
        REFUSED,
        REFUSED,
    ),
    "GPTJ": (GPT | {"rotary_dim": 8}, REFUSED, REFUSED),
    "GPTNeo": (
        {
            "vocab_size": 300,
            "hidden_size": 64,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
        },
        REFUSED,
        REFUSED,
    ),
    "Mpt": ({"vocab_size": 300, "d_model": 64, "n_layers": 3, "n_heads": 4}, REFUSED, REFUSED),
    "Nemotron": (SMALL, REFUSED, REFUSED),
    "XGLM": (
        {"vocab_size": 300, "d_model": 64, "ffn_dim": 96, "num_layers": 2, "attention_heads": 4},
        REFUSED,
        REFUSED,
    ),
}
CLASSES = {
    "GPT2": "GPT2LMHeadModel",
    "Gemma3Text": "Gemma3ForCausalLM",
    "Llama4Text": "Llama4ForCausalLM",
    "Mpt": "MptForCausalLM",
}


def built(name, **changes):
    """The architecture's model, in which its rules matter."""
    config = getattr(transformers, f"{name}Config")(**ARCHITECTURES[name][0] | changes)
    torch.manual_seed(0)
    model = getattr(transformers, CLASSES.get(name, f"{name}ForCausalLM"))(config).eval()
    has_sinks = any("sinks" in place for place, _ in model.named_parameters())
    for place, weights in model.named_parameters():
        if "sinks" in place:
            torch.nn.init.constant_(weights, 30.0)
        elif any(part in place for part in ("q_norm", "k_norm", "q_layernorm", "k_layernorm")):
            # as made, all keys have the same norm, and which a press by norm keeps is rounding
            torch.nn.init.uniform_(weights, 0.5, 1.5)
        elif not has_sinks and any(part in place for part in ("q_proj.w", "k_proj.w", "qkv_proj.w")):
            weights.data *= 3
    return model


def as_lm(name, model, tokenizer=None, attn="auto"):
    """A model of random weights, ready to generate."""
    attn = prefill_attention(model, attn) if attn == "auto" else attn
    return LanguageModel(name, model, tokenizer, frozenset(), "cpu", "float32", attn, "random")
