"""A batch of compressed caches behind transformers' own cache interface.

Each row keeps its own length in each layer, so rows of different prompts and presses sit side by side without
left padding. A row can join (a fresh prefill) and leave (its slot is taken by the last row) at any time.
Buffers grow by half when full; a pass writes its tokens' keys and values and copies nothing. Attention goes
over grouped heads: the keys are never expanded, and a beginning that all rows have in common is read once for
all of them. A row takes one token or more in a pass: its last one, and
drafts of the next (`drafts`), of which it keeps those that turn out right. A pass of one token per row has
fixed places, so that on a GPU it can be recorded once and replayed (`cuda_graphs`).
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from kvhelpers.errors import InputError
from kvhelpers.generation.cuda_graphs import Recorder
from kvhelpers.models.packed import PackedLinears, using

BATCHED_ATTENTION = "kvhelpers_batched"
SHARED_FROM = 4  # rows, from which reading the tokens that they share once pays
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
RECORDED_WIDTH = 64  # recorded steps reach a multiple of so many tokens, so that a record serves many steps


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
_NOW: ContextVar[Pass] = ContextVar("pass")


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
    now = _NOW.get()
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


def sliding_windows(model: PreTrainedModel) -> list[int | None]:
    """Each layer's sliding window in tokens; None where it sees the whole context."""
    return [getattr(layer, "sliding_window", None) for layer in DynamicCache(config=model.config).layers]


class BatchedLayer(CacheLayerMixin):
    """One layer's buffers ``[slots, G, capacity, D]``; the owning cache says where rows write and what is
    read.
    """

    def __init__(self, owner: BatchedCache, index: int, sliding_window: int | None):
        super().__init__()
        # a proxy, else a cache and its layers keep each other, and their memory, alive
        self.owner = weakref.proxy(owner)
        self.index, self.sliding_window = index, sliding_window
        self.width = 0  # how far the current pass's longest row reaches
        self.masked_keys: torch.Tensor | None = None  # [slots, G, capacity], what a head-wise press masked

    @property
    def lengths(self) -> torch.Tensor:
        """Tokens held by each row, ``[slots]``."""
        return self.owner.held[self.index]

    def lazy_initialization(self, key_states, value_states):
        slots = self.owner.held.shape[1]
        self.keys, self.values = (
            part.new_zeros(slots, part.shape[1], 0, part.shape[3]) for part in (key_states, value_states)
        )
        self.is_initialized = True

    def reserve(self, capacity: int) -> None:
        """Grow the buffers to hold ``capacity`` tokens a row."""
        if capacity <= self.keys.shape[2]:
            return
        self.owner.recorded.clear()  # records use the old buffers

        def grown(old):
            # zeros, since masked garbage times zero may be NaN
            new = old.new_zeros(*old.shape[:2], capacity, *old.shape[3:])
            new[:, :, : old.shape[2]] = old
            return new

        self.keys, self.values = grown(self.keys), grown(self.values)
        if self.masked_keys is not None:
            self.masked_keys = grown(self.masked_keys)

    def put(
        self, slot: int, keys: torch.Tensor, values: torch.Tensor, masked_keys: torch.Tensor | None
    ) -> None:
        """Place a prefilled row: keys and values ``[1, G, K, D]``, masked ones ``[G, K]`` or None."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        length = keys.shape[2]
        self.reserve(length)
        self.keys[slot, :, :length], self.values[slot, :, :length] = keys[0], values[0]
        # a failed row may have left NaN, and 0 * NaN is NaN
        self.keys[slot, :, length:], self.values[slot, :, length:] = 0, 0
        self.lengths[slot] = length
        if masked_keys is not None and self.masked_keys is None:
            self.owner.recorded.clear()
            self.masked_keys = torch.zeros(self.keys.shape[:3], dtype=torch.bool, device=self.keys.device)
        if self.masked_keys is not None:
            self.masked_keys[slot] = False
            if masked_keys is not None:
                self.masked_keys[slot, :, :length] = masked_keys

    def move(self, source: int, target: int) -> None:
        """Let the row in slot ``source`` also stand in slot ``target``."""
        for buffer in (self.keys, self.values, self.masked_keys):
            if buffer is not None:
                buffer[target] = buffer[source]

    def reserve_pass(self, width: int) -> None:
        """Make room for a pass; ``width`` is how far its longest row reaches."""
        if width > self.keys.shape[2]:
            self.reserve(max(width, self.keys.shape[2] * 3 // 2, 64))
        self.width = width

    def pass_mask(self, rows: int, deepest: int) -> torch.Tensor:
        """Additive mask ``[rows, 1 or G, deepest, width]`` of what each row's next tokens may see, themselves
        included.
        """
        device = self.keys.device
        position = torch.arange(self.width, device=device)
        now = (self.lengths[:rows, None] + torch.arange(deepest, device=device))[:, :, None]
        seen = position <= now
        if self.sliding_window is not None:
            seen &= position > now - self.sliding_window
        seen = seen[:, None]
        if self.masked_keys is not None:
            seen = seen & ~self.masked_keys[:rows, :, None, : self.width]
        return torch.zeros(seen.shape, dtype=self.keys.dtype, device=device).masked_fill_(~seen, -torch.inf)

    def update(self, key_states, value_states, cache_kwargs=None):
        """Write a pass's tokens ``[1, G, T, D]`` behind what their rows hold; return views of what the pass
        attends to.
        """
        row, rows = self.owner.feed.row, self.owner.rows
        at = self.lengths[row] + self.owner.feed.place
        self.keys[row, :, at] = key_states[0].transpose(0, 1)
        self.values[row, :, at] = value_states[0].transpose(0, 1)
        return self.keys[:rows, :, : self.width], self.values[:rows, :, : self.width]

    def get_seq_length(self) -> int:
        """Longest row."""
        return max((row[self.index] for row in self.owner.lengths), default=0)

    def get_mask_sizes(self, cache_position):
        return self.get_seq_length() + cache_position.shape[0], 0

    def get_max_cache_shape(self) -> int:
        return -1


class BatchedCache(Cache):
    """Up to ``slots`` rows of compressed caches, decoded together; ``recorder`` makes passes of one token per
    row replayable, or is None; so is ``packed``, the linear weights that passes multiply with.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        slots: int,
        recorder: Recorder | None = None,
        packed: PackedLinears | None = None,
    ):
        windows = sliding_windows(model)
        super().__init__(layers=[BatchedLayer(self, index, window) for index, window in enumerate(windows)])
        self.shared: list[int] = []  # per row: how many of its first tokens are the others' too
        self.lengths: list[list[int]] = []  # per row, per layer: mirrors `held` without a device sync
        self.held = torch.zeros(len(windows), slots, dtype=torch.long, device=model.device)
        tokens, positions, places = torch.zeros(3, 1, slots, dtype=torch.long, device=model.device)
        self.fixed = Feed(tokens, positions, torch.arange(slots, device=model.device), places[0])
        self.feed, self.rows = self.fixed, 0  # of the current pass
        self.recorder, self.recorded, self.packed = recorder, {}, packed

    @torch.inference_mode()
    def join(self, prefilled: DynamicCache, masked_keys: list[torch.Tensor | None], shared: int = 0) -> None:
        """Add a prefilled row (batch size one) as the last one; its first ``shared`` tokens are those of all
        other rows that share any.
        """
        slot = len(self.lengths)
        for layer, held, masked in zip(self.layers, prefilled.layers, masked_keys, strict=True):
            layer.put(slot, held.keys, held.values, masked)
        self.lengths.append([layer.keys.shape[2] for layer in prefilled.layers])
        self.shared.append(shared)

    @torch.inference_mode()
    def replace(self, slot: int, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Give a row other keys and values ``[1, G, K, D]`` in one layer."""
        self.layers[layer].put(slot, keys, values, None)
        self.lengths[slot][layer], self.shared[slot] = keys.shape[2], 0

    @torch.inference_mode()
    def leave(self, slot: int) -> None:
        """Drop a row; the last row takes its slot."""
        last = len(self.lengths) - 1
        if slot != last:
            for layer in self.layers:
                layer.move(last, slot)
            self.held[:, slot] = self.held[:, last]
        self.held[:, last] = 0
        for rows in (self.lengths, self.shared):
            rows[slot] = rows[last]
            rows.pop()

    @torch.inference_mode()
    def step(
        self, model: PreTrainedModel, fed: Sequence[Sequence[int]], positions: Sequence[int]
    ) -> torch.Tensor:
        """Feed each row some tokens, the first at its true position; they count once `keep` says so.

        Returns float32 raw logits ``[tokens, V]``, row by row, which the next step may overwrite.
        """
        if all(len(tokens) == 1 for tokens in fed):
            for static, now in (
                (self.fixed.tokens, [one for (one,) in fed]),
                (self.fixed.positions, positions),
            ):
                static[0, : len(fed)] = torch.tensor(now, device=static.device)
            return self._run(model, len(fed))[: len(fed)]
        feed = feed_of(fed, positions, self.held.device, self._read_together())
        return self._forward(model, len(fed), self._plan(1, feed.deepest), feed)

    @torch.inference_mode()
    def keep(self, counts: Sequence[int]) -> None:
        """Let so many of the tokens that each row was fed last belong to it, from the first."""
        self.held[:, : len(counts)] += torch.tensor(counts, device=self.held.device)
        self.lengths = [[n + count for n in row] for row, count in zip(self.lengths, counts, strict=True)]

    def _read_together(self) -> int:
        """How many tokens, from the first on, the rows of a pass read together."""
        pays = len(self.shared) >= SHARED_FROM and self.held.device.type == "cpu"
        return min(self.shared) if pays else 0

    def _run(self, model: PreTrainedModel, rows: int) -> torch.Tensor:
        if self.recorder is None:
            return self._forward(model, rows, self._plan(1), self.fixed.first(rows, self._read_together()))
        # empty slots hold nothing and are computed in vain
        rows = min(self.held.shape[1], 1 << (rows - 1).bit_length())
        plan, feed = self._plan(RECORDED_WIDTH), self.fixed.first(rows, shared=0)
        if (rows, plan) not in self.recorded:
            replay = self.recorder(lambda: self._forward(model, rows, plan, feed))
            if replay is None:
                self.recorder = None
                return self._forward(model, rows, plan, feed)
            self.recorded[rows, plan] = replay
        return self.recorded[rows, plan]()

    def _plan(self, multiple: int, deepest: int = 1) -> tuple[tuple[int, int], ...]:
        """Make room for a pass; by layer, its width and the first layer with the same mask (most presses
        leave one length).
        """
        plan, first = [], {}
        for i, layer in enumerate(self.layers):
            held = tuple(row[i] for row in self.lengths)
            width = -(-(max(held) + deepest) // multiple) * multiple
            layer.reserve_pass(width)
            masked_in = i if layer.masked_keys is not None else None
            plan.append((width, first.setdefault((held, layer.sliding_window, masked_in), i)))
        return tuple(plan)

    def _forward(
        self, model: PreTrainedModel, rows: int, plan: tuple[tuple[int, int], ...], feed: Feed
    ) -> torch.Tensor:
        self.feed, self.rows = feed, rows
        masks: dict[int, torch.Tensor] = {}
        for layer, (width, first) in zip(self.layers, plan, strict=True):
            layer.width = width
            if first not in masks:
                masks[first] = layer.pass_mask(rows, feed.deepest)
        now = Pass(feed, [masks[first] for _, first in plan])
        token = _NOW.set(now)
        try:
            with attention_implementation(model, BATCHED_ATTENTION), using(self.packed):
                out = model(
                    input_ids=feed.tokens,
                    position_ids=feed.positions,
                    cache_position=feed.positions[0],
                    past_key_values=self,
                    use_cache=True,
                )
        finally:
            _NOW.reset(token)
        if len(now.attended) != len(self.layers):
            raise InputError(
                f"{len(self.layers) - len(now.attended)} of {len(self.layers)} layers of "
                f"{type(model).__name__} do not compute their attention through transformers' attention "
                "interface"
            )
        return out.logits[0].float()
