"""A batch of compressed caches behind transformers' own cache interface.

Each row keeps its own length in each layer, so rows of different prompts and presses sit side by side without
left padding. A row can join (a fresh prefill) and leave (its slot is taken by the last row) at any time.
Buffers grow by half when full; a pass writes its tokens' keys and values and copies nothing, and reads them
as `attention` says. A row takes one token or more in a pass: its last one, and drafts of the next (`drafts`),
of which it keeps those that turn out right. A pass of one token per row has fixed places, so that on a GPU it
can be recorded once and replayed (`cuda_graphs`). What is written may be rounded to a format of fewer bits
(`formats`).
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from itertools import accumulate

import torch
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin

from kvhelpers.errors import InputError
from kvhelpers.generation.attention import (
    BATCHED_ATTENTION,
    NOW,
    Feed,
    Pass,
    attention_implementation,
    feed_of,
)
from kvhelpers.generation.cuda_graphs import Recorder
from kvhelpers.generation.formats import Rounding, grouped_until, room, roundings
from kvhelpers.models.packed import PackedLinears, using
from kvhelpers.presses.cache_formats import GROUPED, UNROUNDED, CacheFormats

SHARED_FROM = 4  # rows, from which reading the tokens that they share once pays
RECORDED_WIDTH = 64  # recorded steps reach a multiple of so many tokens, so that a record serves many steps


def sliding_windows(model: PreTrainedModel) -> list[int | None]:
    """Each layer's sliding window in tokens; None where it sees the whole context."""
    return [getattr(layer, "sliding_window", None) for layer in DynamicCache(config=model.config).layers]


class BatchedLayer(CacheLayerMixin):
    """One layer's buffers ``[slots, G, capacity, D]``; the owning cache says where rows write and what is
    read.
    """

    def __init__(
        self, owner: BatchedCache, index: int, sliding_window: int | None, rounding: Rounding | None
    ):
        super().__init__()
        # a proxy, else a cache and its layers keep each other, and their memory, alive
        self.owner = weakref.proxy(owner)
        self.index, self.sliding_window, self.rounding = index, sliding_window, rounding
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
        attends to. Rounded, they are so in their own step too.
        """
        if self.rounding is not None:
            key_states, value_states = self.rounding.written(key_states, value_states)
        row, rows = self.owner.feed.row, self.owner.rows
        at = self.lengths[row] + self.owner.feed.place
        self.keys[row, :, at] = key_states[0].transpose(0, 1)
        self.values[row, :, at] = value_states[0].transpose(0, 1)
        return self.keys[:rows, :, : self.width], self.values[:rows, :, : self.width]

    def round_groups(
        self, keys: Sequence[tuple[int, int, int]], values: Sequence[tuple[int, int, int]]
    ) -> None:
        """Round stretches of keys and of values, each a slot, its first place and that behind its last."""
        for buffer, stretches, size, function in (
            (self.keys, keys, self.rounding.formats.group, self.rounding.key_groups),
            (self.values, values, 1, self.rounding.value_groups),
        ):
            starts = [(slot, at) for slot, first, end in stretches for at in range(first, end, size)]
            if starts:
                slots, places = torch.tensor(starts, device=buffer.device).T
                places = places[:, None] + torch.arange(size, device=buffer.device)
                where = (
                    slots[:, None, None],
                    torch.arange(buffer.shape[1], device=buffer.device)[None, :, None],
                    places[:, None],
                )
                buffer[where] = function(buffer[where])

    def get_seq_length(self) -> int:
        """Longest row."""
        return max((row[self.index] for row in self.owner.lengths), default=0)

    def get_mask_sizes(self, cache_position):
        return self.get_seq_length() + cache_position.shape[0], 0

    def get_max_cache_shape(self) -> int:
        return -1


class BatchedCache(Cache):
    """Up to ``slots`` rows of compressed caches, decoded together; ``recorder`` makes passes of one token per
    row replayable, or is None; so is ``packed``, the linear weights that passes multiply with. ``formats``
    are those in which keys and values are held.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        slots: int,
        recorder: Recorder | None = None,
        packed: PackedLinears | None = None,
        formats: CacheFormats = UNROUNDED,
    ):
        windows = sliding_windows(model)
        parts = zip(windows, roundings(formats, len(windows)), strict=True)
        super().__init__(layers=[BatchedLayer(self, index, *part) for index, part in enumerate(parts)])
        self.formats = formats
        # per row, per layer: up to where keys and values are rounded in groups, if they are
        self.rounded: list[list[tuple[int, int]]] = []
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
            parts = held.keys, held.values
            layer.put(slot, *(parts if layer.rounding is None else layer.rounding.prompt(*parts)), masked)
        self.lengths.append([layer.keys.shape[2] for layer in prefilled.layers])
        self.rounded.append([(min(self.formats.protect_tokens, held),) * 2 for held in self.lengths[slot]])
        self._round_groups([slot])
        self.shared.append(self._alike(slot, shared))

    @torch.inference_mode()
    def replace(self, slot: int, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Leave a row these of its keys and values ``[1, G, K, D]`` in one layer."""
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
        for rows in (self.lengths, self.shared, self.rounded):
            rows[slot] = rows[last]
            rows.pop()

    @torch.inference_mode()
    def step(
        self,
        model: PreTrainedModel,
        fed: Sequence[Sequence[int]],
        positions: Sequence[int],
        last: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """Feed each row some tokens, the first at its true position; they count once `keep` says so.

        Returns float32 raw logits ``[tokens, V]``, row by row, which the next step may overwrite: of all
        tokens, or of each row's ``last`` so many.
        """
        if all(len(tokens) == 1 for tokens in fed):
            for static, now in (
                (self.fixed.tokens, [one for (one,) in fed]),
                (self.fixed.positions, positions),
            ):
                static[0, : len(fed)] = torch.tensor(now, device=static.device)
            return self._run(model, len(fed))[: len(fed)]
        feed = feed_of(fed, positions, self.held.device, self._read_together())
        ends = accumulate(map(len, fed))
        asked = last and [end - n + i for end, n in zip(ends, last, strict=True) for i in range(n)]
        return self._forward(model, len(fed), self._plan(1, feed.deepest), feed, asked)

    @torch.inference_mode()
    def keep(self, counts: Sequence[int]) -> None:
        """Let so many of the tokens that each row was fed last belong to it, from the first."""
        self.held[:, : len(counts)] += torch.tensor(counts, device=self.held.device)
        self.lengths = [[n + count for n in row] for row, count in zip(self.lengths, counts, strict=True)]
        self._round_groups(range(len(counts)))

    def room(self, slot: int) -> float:
        """How many tokens a row may be fed in one pass: what is rounded in groups is so between passes."""
        rows = zip(self.layers, self.lengths[slot], self.rounded[slot], strict=True)
        return min(room(self.formats, *row) for layer, *row in rows if layer.rounding is not None)

    def _round_groups(self, slots: Sequence[int]) -> None:
        """Round in groups what these rows no longer hold in full."""
        if not self.formats.grouped:
            return
        for i, layer in enumerate(self.layers):
            if layer.rounding is None:
                continue
            stretches = [], []
            for slot in slots:
                before = self.rounded[slot][i]
                after = grouped_until(self.formats, self.lengths[slot][i], before)
                for part, first, end in zip(stretches, before, after, strict=True):
                    part.append((slot, first, end))
                self.rounded[slot][i] = after
            layer.round_groups(*stretches)

    def _alike(self, slot: int, shared: int) -> int:
        """Of a row's tokens that are others' too, how many, from the first on, are also rounded as theirs: in
        groups of these tokens alone.
        """
        alike, group = shared, self.formats.group
        for layer, held, (keys, values) in zip(
            self.layers, self.lengths[slot], self.rounded[slot], strict=True
        ):
            first = min(self.formats.protect_tokens, held)
            if layer.rounding is not None and self.formats.k in GROUPED and shared > first:
                alike = min(alike, first + (min(shared, keys) - first) // group * group)
            if layer.rounding is not None and self.formats.v in GROUPED:
                alike = min(alike, values)
        return alike

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
        self,
        model: PreTrainedModel,
        rows: int,
        plan: tuple[tuple[int, int], ...],
        feed: Feed,
        asked: list[int] | None = None,
    ) -> torch.Tensor:
        self.feed, self.rows = feed, rows
        masks: dict[int, torch.Tensor] = {}
        for layer, (width, first) in zip(self.layers, plan, strict=True):
            layer.width = width
            if first not in masks:
                masks[first] = layer.pass_mask(rows, feed.deepest)
        now = Pass(feed, [masks[first] for _, first in plan])
        only = {"logits_to_keep": torch.tensor(asked, device=self.held.device)} if asked else {}
        token = NOW.set(now)
        try:
            with attention_implementation(model, BATCHED_ATTENTION), using(self.packed):
                out = model(
                    input_ids=feed.tokens,
                    position_ids=feed.positions,
                    cache_position=feed.positions[0],
                    past_key_values=self,
                    use_cache=True,
                    **only,
                )
        finally:
            NOW.reset(token)
        if len(now.attended) != len(self.layers):
            raise InputError(
                f"{len(self.layers) - len(now.attended)} of {len(self.layers)} layers of "
                f"{type(model).__name__} do not compute their attention through transformers' attention "
                "interface"
            )
        return out.logits[0].float()
