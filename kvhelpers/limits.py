"""What a model cannot do with these prompts, refused before anything runs."""

from __future__ import annotations

from collections.abc import Sequence

import kvpress
from transformers import Gemma3ForConditionalGeneration, PreTrainedModel

from kvhelpers.errors import InputError
from kvhelpers.presses import phases
from kvhelpers.slotcache import sliding_windows


def check_limits(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], press: kvpress.BasePress | None, max_new_tokens: int
) -> None:
    """Check a call of `generation.generate`; ``press`` is that of any of the prompts.

    Raises
    ------
    InputError : no new token is asked for; a prompt and its new tokens exceed the model's context, or, under a press, the
        window of a layer that the press compresses.
    """
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens {max_new_tokens} is below 1; a run needs at least one new token")
    longest = max(map(len, prompts), default=0)
    asked = f"max_new_tokens {max_new_tokens} with a prompt of {longest} tokens"
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and longest + max_new_tokens > limit:
        raise InputError(f"{asked} exceeds the model's context of {limit}; choose at most {limit - longest}")
    window = compressed_window(model, press)
    if window is not None and longest + max_new_tokens > window:
        raise InputError(
            f"{asked} exceeds the sliding window of {window} that layers of this model have; a press compresses these layers "
            "too, and transformers cannot go on from such a cache"
        )


def compressed_window(model: PreTrainedModel, press: kvpress.BasePress | None) -> int | None:
    """The shortest sliding window of the layers that a press compresses; None if all of these see the whole context.

    kvpress spares such layers in Gemma 3's multimodal class only, and there in the prefill only.
    """
    prefilling, decoding = phases(press)
    if decoding is None and (prefilling is None or isinstance(model, Gemma3ForConditionalGeneration)):
        return None
    return min((window for window in sliding_windows(model) if window is not None), default=None)
