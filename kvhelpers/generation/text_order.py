"""The order of a compressed cache's tokens in the text, for formats to which it matters."""

from __future__ import annotations

from dataclasses import replace

import kvpress
from transformers import DynamicCache

from kvhelpers.errors import InputError
from kvhelpers.generation.cache_report import same_vectors
from kvhelpers.generation.prefill import Prefilled
from kvhelpers.presses.cache_formats import CacheFormats


def in_text_order(prefilled: Prefilled, press: kvpress.BasePress, formats: CacheFormats) -> Prefilled:
    """A prefilled row with its cache's tokens in the order of the text, head by head; presses by score leave
    them in the order of their scores.

    Raises
    ------
    InputError : a press that changes the keys that it keeps, or, where tokens are rounded in groups, masks
        some of them.
    """
    if formats.grouped and any(masked is not None for masked in prefilled.masked_keys):
        raise InputError(
            f"press {press!r} masks keys of some heads, which would have a part in the groups of int4 "
            "and int2; choose another cache_type"
        )
    ordered = DynamicCache()
    for index, (whole, kept) in enumerate(zip(prefilled.full.layers, prefilled.cache.layers, strict=True)):
        same = same_vectors(whole.keys[0], kept.keys[0])  # [G, N, K]
        if not same.any(1).all():
            raise InputError(
                f"press {press!r} changes the keys that it keeps, so that their order in the text is "
                "not known; int4, int2 and protect_tokens need it"
            )
        order = same.int().argmax(1).sort(dim=-1, stable=True).indices[None, :, :, None]
        parts = (part.gather(2, order.expand_as(part)) for part in (kept.keys, kept.values))
        ordered.update(*parts, index)
    return replace(prefilled, cache=ordered)
