"""What a model cannot do with these prompts, refused before anything runs, and how many rows fit together."""

from __future__ import annotations

from collections.abc import Sequence

import kvpress
import psutil
import torch
from torch import nn
from transformers import Gemma3ForConditionalGeneration, PreTrainedModel

from kvhelpers.errors import InputError
from kvhelpers.generation.batched_cache import sliding_windows
from kvhelpers.generation.drafts import PASS_TOKENS
from kvhelpers.generation.requests import Request
from kvhelpers.models.load import LanguageModel
from kvhelpers.presses.cache_formats import CacheFormats
from kvhelpers.presses.kinds import phases

ENOUGH = {"cpu": 64, "mps": 64, "cuda": 256}  # rows beyond which a step's time grows with its rows
USED = 0.7  # share of free memory that the rows may take; the rest is for the prefill and for other programs
GROWTH = 1.5  # the cache's buffers grow by half when full
LOGITS_COPIES = 6  # logits and what the signals make of them, float32
WINDOW = 20  # tokens of a sliding window while a model is checked (`self_check`)
LOGITS_OF_DRAFTS = 2  # the same of drafted tokens, whose signals are computed in parts


def check_limits(model: PreTrainedModel, requests: Sequence[Request], max_new_tokens: int) -> None:
    """Check a call of `generate.generate`.

    Raises
    ------
    InputError : no new token is asked for; a prompt and its new tokens exceed the model's context, or a
        length from which on its positions or its mask are made otherwise, or, under a press, the window of a
        layer that the press compresses; a press on a model whose layers it does not find; a run under a
        press that compresses while decoding is watched; a context without tokens, or without a token behind
        it.
    """
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens {max_new_tokens} is below 1; a run needs at least one new token")
    longest = max((len(request.token_ids) for request in requests), default=0)
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and longest + max_new_tokens > limit:
        raise InputError(
            f"max_new_tokens {max_new_tokens} with a prompt of {longest} tokens exceeds the model's context "
            f"of {limit}; {_less(limit - longest)}"
        )
    switch, why = length_switch(model)
    if switch is not None and longest + max_new_tokens > switch:
        raise InputError(
            f"max_new_tokens {max_new_tokens} with a prompt of {longest} tokens exceeds {switch} tokens, "
            f"beyond which this model {why}; that is not supported; {_less(switch - longest)}"
        )
    pressed = next((request.press for request in requests if request.press is not None), None)
    if pressed is not None and not attention_modules(model):
        raise InputError(
            f"press {type(pressed).__name__!r} is not supported on {type(model).__name__}: presses need "
            "model.model.layers[i].self_attn and model.model.rotary_emb, and its layers have other names; "
            "press 'none' is supported"
        )
    for request in requests:
        if request.context is not None and not 0 < request.context < len(request.token_ids):
            raise InputError(
                f"context {request.context} of a prompt of {len(request.token_ids)} tokens is not allowed; "
                "at least one token is compressed, and at least one is fed to the compressed cache"
            )
        if request.watch is not None and phases(request.press)[1] is not None:
            raise InputError(
                f"press {type(request.press).__name__!r} compresses while decoding; no action can be taken "
                "on its runs, since their caches follow from all cuts so far and not from a new prefill"
            )
    for request in sorted(requests, key=lambda request: -len(request.token_ids)):
        n_tokens, window = len(request.token_ids), compressed_window(model, request.press)
        if window is not None and n_tokens + max_new_tokens > window:
            raise InputError(
                f"max_new_tokens {max_new_tokens} with a prompt of {n_tokens} tokens exceeds the sliding "
                f"window of {window} that layers of this model have; a press compresses these layers too, "
                "and transformers cannot go on from such a cache"
            )


def check_formats(model: PreTrainedModel, requests: Sequence[Request], formats: CacheFormats) -> None:
    """Raise InputError for formats that these prompts' caches cannot have on this model."""
    if formats and any(request.context is not None for request in requests):
        raise InputError("a cache_type is not supported with compress 'context'; use compress 'prompt'")
    if formats.in_order and set(sliding_windows(model)) != {None}:
        raise InputError(
            "cache_type int4 and int2, and protect_tokens, are not supported on a model with a sliding "
            "window, whose layers do not hold a prompt's first tokens"
        )
    for request in requests if formats.grouped else ():
        if phases(request.press)[1] is not None:
            raise InputError(
                f"press {type(request.press).__name__!r} cuts the cache while decoding, which would tear the "
                "groups of int4 and int2 apart; choose another cache_type"
            )


def _less(left: int) -> str:
    return f"choose at most {left}" if left > 0 else "choose shorter prompts"


def attention_modules(model: PreTrainedModel) -> list[nn.Module]:
    """Self-attention modules of the decoder, by layer, where presses look for them; none where the
    architecture's layers have other names.
    """
    inner = getattr(model, "model", None)
    inner = getattr(inner, "language_model", inner)
    modules = [getattr(layer, "self_attn", None) for layer in getattr(inner, "layers", ())]
    return modules if hasattr(inner, "rotary_emb") and None not in modules else []


def length_switch(model: PreTrainedModel) -> tuple[int | None, str]:
    """The number of tokens beyond which a model computes positions or masks in another way, and which way;
    None where there is no such number.
    """
    config = model.config.get_text_config()
    if "chunked_attention" in (getattr(config, "layer_types", None) or ()):
        return config.attention_chunk_size, "attends in chunks"
    rotary = getattr(config, "rope_parameters", None) or {}
    for part in (rotary, *(part for part in rotary.values() if isinstance(part, dict))):
        if part.get("rope_type") == "longrope":
            return part["original_max_position_embeddings"], "has another rotary table (longrope)"
    windows = set(sliding_windows(model)) - {None}
    if windows - {getattr(config, "sliding_window", None)} and min(windows) > WINDOW:
        return min(windows), "attends through windows that could not be checked"
    return None, ""


def compressed_window(model: PreTrainedModel, press: kvpress.BasePress | None) -> int | None:
    """The shortest sliding window of the layers that a press compresses; None if all of these see the whole
    context.

    kvpress spares such layers in Gemma 3's multimodal class only, and there in the prefill only.
    """
    prefilling, decoding = phases(press)
    if decoding is None and (prefilling is None or isinstance(model, Gemma3ForConditionalGeneration)):
        return None
    return min((window for window in sliding_windows(model) if window is not None), default=None)


def free_bytes(device: str) -> int:
    """Memory free on a device; on Apple's GPUs, which share it, the machine's."""
    return torch.cuda.mem_get_info()[0] if device == "cuda" else psutil.virtual_memory().available


def row_bytes(lm: LanguageModel, n_tokens: int) -> int:
    """Memory in bytes of one row whose cache holds up to ``n_tokens``, with its logits."""
    config, weights = lm.model.config.get_text_config(), next(lm.model.parameters())
    all_heads = getattr(config, "num_attention_heads", None) or 1  # none is refused later, by name
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // all_heads
    heads = getattr(config, "num_key_value_heads", None) or all_heads
    cache = 2 * config.num_hidden_layers * heads * head_dim * weights.element_size() * n_tokens
    return int(GROWTH * cache) + 4 * LOGITS_COPIES * config.vocab_size


def pass_bytes(lm: LanguageModel) -> int:
    """Memory in bytes of the logits of a pass with as many drafts as one may have."""
    return 4 * LOGITS_OF_DRAFTS * lm.model.config.get_text_config().vocab_size * PASS_TOKENS[lm.device]


def auto_batch_size(lm: LanguageModel, longest_prompt: int, max_new_tokens: int, reserved: int = 0) -> int:
    """Rows to decode together, at least one; ``reserved`` bytes of the free memory are for something else.

    The estimate takes prompts as uncompressed, as long as the longest one, and answers as long as allowed.
    When it is wrong all the same, `batch.Batch` halves the rows.
    """
    free = free_bytes(lm.device) - reserved - pass_bytes(lm)
    fits = USED * free / row_bytes(lm, longest_prompt + max_new_tokens)
    return max(1, min(ENOUGH[lm.device], int(fits)))
