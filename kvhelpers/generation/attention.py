"""Attention of a batch's new tokens to their own rows' caches, and what a pass must tell it.

It is registered in transformers' attention interface, so that the architecture's own code calls it. It goes
over grouped heads: the keys are never expanded, and a beginning that all rows have in common is read once for
all of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from kvhelpers.errors import InputError

BATCHED_ATTENTION = "kvhelpers_batched"
# what architectures give their attention that is another's business (masks follow from the cache's layers),
# or says only what is to be returned
WITHOUT_EFFECT = {
    "cache_position",
    "deterministic",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "position_embeddings",
    "position_ids",
    "return_dict",
    "sliding_window",
    "use_cache",
}
MOST_PADDED = 1.5  # places of a pass for each of its tokens, beyond which rows attend one by one


@dataclass(frozen=True)
class Feed:
    """The tokens of a pass, those of a row side by side: ids and true positions ``[1, T]``, each token's row
    and its place among its row's ``[T]``, and how many tokens each row has; None where each has one.
    ``shared`` is how many cached tokens, from the first on, all rows share.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    row: torch.Tensor
    place: torch.Tensor
    counts: list[int] | None = None
    shared: int = 0

    @property
    def deepest(self) -> int:
        """Tokens of the row that has most."""
        return max(self.counts) if self.counts else 1

    def first(self, rows: int, shared: int) -> Feed:
        """The first rows' part of a feed of one token per row."""
        ids, positions = self.tokens[:, :rows], self.positions[:, :rows]
        return Feed(ids, positions, self.row[:rows], self.place[:rows], shared=shared)

    @cached_property
    def starts(self) -> list[int]:
        """Where each row's tokens begin."""
        return list(itertools.accumulate(self.counts, initial=0))[:-1]

    @cached_property
    def padded(self) -> torch.Tensor | None:
        """Token at each place of each row ``[rows, deepest]``, a row's last one where it has no more; None
        where rows differ so much that the padding would cost more than going through the rows.
        """
        on_cpu = self.row.device.type == "cpu"  # elsewhere many small calls cost more than padding
        if on_cpu and len(self.counts) * self.deepest > MOST_PADDED * sum(self.counts):
            return None
        place = torch.arange(self.deepest, device=self.row.device)
        starts, counts = torch.tensor([self.starts, self.counts], device=self.row.device)[:, :, None]
        return starts + place.minimum(counts - 1)


def feed_of(
    fed: Sequence[Sequence[int]], positions: Sequence[int], device: torch.device, shared: int
) -> Feed:
    """The pass of these tokens by row, the first of each at this position."""
    counts = [len(tokens) for tokens in fed]
    each = [(row, place) for row, count in enumerate(counts) for place in range(count)]
    columns = [(fed[row][place], positions[row] + place, row, place) for row, place in each]
    tokens, true, row, place = torch.tensor(columns, device=device).T.contiguous()
    return Feed(tokens[None], true[None], row, place, counts, shared)


@dataclass
class Pass:
    """What attention needs to know of the pass that is going on: its tokens, and by layer the additive mask
    ``[B, 1 or G, deepest, K]``; ``attended`` are the layers that have asked for it.
    """

    feed: Feed
    masks: list[torch.Tensor]
    attended: set[int] = field(default_factory=set)


# not a keyword of the model: not every architecture hands those on to its attention
NOW: ContextVar[Pass] = ContextVar("pass")


def batched_attention(
    module, query, key, value, attention_mask, dropout=0.0, scaling=None, softcap=None, s_aux=None, **others
):
    """Attention of each row's new tokens to its own cached tokens.

    ``query`` is ``[1, H, T, D]``, ``key`` and ``value`` are ``[B, G, K, D]``. Of what architectures hand to
    their attention, ``scaling``, ``softcap`` (scores s become c tanh(s / c); Gemma 2,
    https://arxiv.org/abs/2408.00118) and ``s_aux`` (a score ``[H]`` that takes part in the softmax and has no
    value; gpt-oss) are kept to. Dropout is not used: nothing is trained.

    Raises
    ------
    InputError : the architecture gives its attention something else that may change what it computes.
    """
    _refuse_unknown(module, attention_mask, others)
    now = NOW.get()
    now.attended.add(module.layer_idx)
    feed, mask = now.feed, now.masks[module.layer_idx]
    tokens, shared = query[0].transpose(0, 1), feed.shared
    if softcap is not None or s_aux is not None:
        attend = partial(_attend_plainly, scale=scaling, softcap=softcap, sinks=s_aux)
        return _attend_own(tokens, feed, key, value, mask, attend)[None], None
    if not shared or key.shape[-1] != value.shape[-1]:
        return _attend_own(tokens, feed, key, value, mask, partial(_attend, scale=scaling))[None], None
    with_lse = partial(_attend_with_lse, scale=scaling)
    own = _attend_own(tokens, feed, key[:, :, shared:], value[:, :, shared:], mask[..., shared:], with_lse)
    common = with_lse(tokens[None], key[:1, :, :shared], value[:1, :, :shared], None)[0]
    return _merged(own, common).to(query.dtype)[None], None


def _refuse_unknown(module, attention_mask, others):
    unknown = [
        name
        for name, value in others.items()
        if value is not None and name not in WITHOUT_EFFECT and not (name == "is_causal" and value is True)
    ]
    if attention_mask is not None:
        unknown.append("attention_mask")
    if not hasattr(module, "layer_idx"):
        unknown.append("no number of its layer")
    if unknown:
        raise InputError(
            f"{type(module).__name__} gives its attention {', '.join(unknown)}, which is not known here; "
            "known are scaling, softcap and s_aux"
        )


def _attend_own(tokens, feed, key, value, mask, attend):
    """Attention ``[T, H, D or D + 1]`` of tokens ``[T, H, D]``, each to its row's keys."""
    if feed.counts is None:
        return attend(tokens[:, None], key, value, mask)[:, 0]
    if feed.padded is not None:
        return attend(tokens[feed.padded], key, value, mask)[feed.row, feed.place]
    first = attend(tokens[feed.starts, None], key, value, mask[:, :, :1])[:, 0]
    out = first.new_empty(len(tokens), *first.shape[1:])
    out[feed.starts] = first
    for slot, (start, count) in enumerate(zip(feed.starts, feed.counts, strict=True)):
        if count > 1:
            row, its = slice(slot, slot + 1), slice(start, start + count)
            out[its] = attend(tokens[None, its], key[row], value[row], mask[row, :, :count])[0]
    return out


def _attend(query, key, value, mask, scale):
    """Attention of ``query`` ``[B, N, H, D]``; the query heads of a group are viewed as a query length of
    H / G times N, so keys ``[B, G, K, D]`` are used as they lie.
    """
    grouped, mask = _grouped(query, key.shape[1]), _for_groups(mask, query, key)
    out = torch.nn.functional.scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scale)
    return _ungrouped(out, query)


def _attend_with_lse(query, key, value, mask, scale):
    """Attention as `_attend` gives it, and behind it the logarithm of the sum of the exponentials of its
    scores, ``[B, N, H, D + 1]``; on the CPU only.
    """
    grouped, mask = _grouped(query, key.shape[1]), _for_groups(mask, query, key)
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        grouped, key, value, attn_mask=mask, scale=scale
    )
    return _ungrouped(torch.cat([out, lse[..., None]], dim=-1), query)


def _attend_plainly(query, key, value, mask, scale, softcap, sinks):
    """Attention as `_attend` gives it, of scores with a cap, or with the heads' sinks ``[H]`` beside them; in
    half precision the softmax is taken in float32.
    """
    grouped, mask = _grouped(query, key.shape[1]), _for_groups(mask, query, key)
    scores = grouped @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores = scores + mask
    if sinks is not None:
        column = sinks.view(key.shape[1], -1).repeat_interleave(query.shape[1], dim=1)
        scores = torch.cat([scores, column[None, :, :, None].expand(len(scores), -1, -1, 1)], dim=-1)
    precise = torch.promote_types(scores.dtype, torch.float32)
    weights = scores.softmax(-1, dtype=precise)[..., : key.shape[2]].to(value.dtype)
    return _ungrouped(weights @ value, query)


def _merged(one, other):
    """Attention to two sets of keys at once, of the attention to each as `_attend_with_lse` gives it."""
    share = torch.sigmoid(one[..., -1:] - other[..., -1:])
    return one[..., :-1] * share + other[..., :-1] * (1 - share)


def _grouped(query, groups):
    rows, n, heads, dim = query.shape
    per_group = heads // groups
    grouped = query.reshape(rows, n, groups, per_group, dim).permute(0, 2, 3, 1, 4)
    return grouped.reshape(rows, groups, per_group * n, dim)


def _ungrouped(out, query):
    rows, n, heads, _ = query.shape
    groups = out.shape[1]
    ungrouped = out.reshape(rows, groups, heads // groups, n, -1).permute(0, 3, 1, 2, 4)
    return ungrouped.reshape(rows, n, heads, -1)


def _for_groups(mask, query, key):
    """A mask for the query heads of a group side by side."""
    n, per_group = query.shape[1], query.shape[2] // key.shape[1]
    return mask if mask is None or n == 1 else mask.repeat(1, 1, per_group, 1)


ALL_ATTENTION_FUNCTIONS.register(BATCHED_ATTENTION, batched_attention)


@contextmanager
def attention_implementation(model: PreTrainedModel, name: str):
    """Use attention ``name`` inside the context."""
    configs = {id(c): c for c in (model.config, model.config.get_text_config())}.values()
    before = [config._attn_implementation for config in configs]
    for config in configs:
        config._attn_implementation = name
    try:
        yield
    finally:
        for config, old in zip(configs, before, strict=True):
            config._attn_implementation = old
