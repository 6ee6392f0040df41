"""A batch of compressed caches behind transformers' own cache interface.

Each row keeps its own length in each layer, so rows of different prompts and presses sit side by side without
left padding. A row can join (a fresh prefill) and leave (its slot is taken by the last row) at any time.
Buffers grow by half when full; a step writes one position per row and copies nothing. Attention goes over
grouped heads: the keys are never expanded. A step's tensors have fixed places, so that on a GPU it can be
recorded once and replayed (`cuda_graphs`).
"""

from __future__ import annotations

import weakref
from contextlib import contextmanager

import torch
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from kvhelpers.generation.cuda_graphs import Recorder

BATCHED_ATTENTION = "kvhelpers_batched"
RECORDED_WIDTH = 64  # recorded steps reach a multiple of so many tokens, so that a record serves many steps


def batched_attention(module, query, key, value, attention_mask, dropout=0.0, **options):
    """Attention of one new token per row to its own cached tokens.

    ``query`` is ``[B, H, 1, D]``, ``key`` and ``value`` are ``[B, G, K, D]``; the query heads of a group are
    viewed as a query length of H / G, so keys are used as they lie. Of the ``options``, ``slot_masks[layer]``
    is boolean, ``[B, 1 or G, 1, K]``, and ``scaling`` the model's; mask and dropout are not used.
    """
    rows, heads, _, dim = query.shape
    grouped = query.view(rows, key.shape[1], heads // key.shape[1], dim)
    mask = options["slot_masks"][module.layer_idx]
    out = torch.nn.functional.scaled_dot_product_attention(
        grouped, key, value, attn_mask=mask, scale=options.get("scaling")
    )
    return out.reshape(rows, 1, heads, dim), None


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
        self.width = 0  # how far the current step's longest row reaches
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

    def reserve_step(self, width: int) -> None:
        """Make room for one more token per row; ``width`` is how far the step's longest row reaches."""
        if width > self.keys.shape[2]:
            self.reserve(max(width, self.keys.shape[2] * 3 // 2, 64))
        self.width = width

    def step_mask(self, rows: int) -> torch.Tensor:
        """Mask ``[rows, 1 or G, 1, width]`` of what each row's next token may see, itself included."""
        position = torch.arange(self.width, device=self.keys.device)
        now = self.lengths[:rows, None]
        mask = position <= now
        if self.sliding_window is not None:
            mask &= position > now - self.sliding_window
        mask = mask[:, None, None, :]
        if self.masked_keys is not None:
            mask = mask & ~self.masked_keys[:rows, :, None, : self.width]
        return mask

    def update(self, key_states, value_states, cache_kwargs=None):
        """Append one token to each row; return views of what the step attends to."""
        rows = key_states.shape[0]
        row, now = self.owner.row[:rows], self.lengths[:rows]
        self.keys[row, :, now] = key_states[:, :, 0]
        self.values[row, :, now] = value_states[:, :, 0]
        return self.keys[:rows, :, : self.width], self.values[:rows, :, : self.width]

    def get_seq_length(self) -> int:
        """Longest row."""
        return max((row[self.index] for row in self.owner.lengths), default=0)

    def get_mask_sizes(self, cache_position):
        return self.get_seq_length() + cache_position.shape[0], 0

    def get_max_cache_shape(self) -> int:
        return -1


class BatchedCache(Cache):
    """Up to ``slots`` rows of compressed caches, decoded together; ``recorder`` makes steps replayable, or is
    None.
    """

    def __init__(self, model: PreTrainedModel, slots: int, recorder: Recorder | None = None):
        windows = sliding_windows(model)
        super().__init__(layers=[BatchedLayer(self, index, window) for index, window in enumerate(windows)])
        self.lengths: list[list[int]] = []  # per row, per layer: mirrors `held` without a device sync
        self.held = torch.zeros(len(windows), slots, dtype=torch.long, device=model.device)
        self.row = torch.arange(slots, device=model.device)
        self.tokens, self.positions = torch.zeros(2, slots, 1, dtype=torch.long, device=model.device)
        self.recorder, self.recorded = recorder, {}

    @torch.inference_mode()
    def join(self, prefilled: DynamicCache, masked_keys: list[torch.Tensor | None]) -> None:
        """Add a prefilled row (batch size one) as the last one."""
        slot = len(self.lengths)
        for layer, held, masked in zip(self.layers, prefilled.layers, masked_keys, strict=True):
            layer.put(slot, held.keys, held.values, masked)
        self.lengths.append([layer.keys.shape[2] for layer in prefilled.layers])

    @torch.inference_mode()
    def replace(self, slot: int, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Give a row other keys and values ``[1, G, K, D]`` in one layer."""
        self.layers[layer].put(slot, keys, values, None)
        self.lengths[slot][layer] = keys.shape[2]

    @torch.inference_mode()
    def leave(self, slot: int) -> None:
        """Drop a row; the last row takes its slot."""
        last = len(self.lengths) - 1
        if slot != last:
            for layer in self.layers:
                layer.move(last, slot)
            self.held[:, slot] = self.held[:, last]
        self.held[:, last] = 0
        self.lengths[slot] = self.lengths[last]
        self.lengths.pop()

    @torch.inference_mode()
    def step(self, model: PreTrainedModel, tokens: list[int], positions: list[int]) -> torch.Tensor:
        """Feed each row its next token at its true position.

        Returns float32 raw logits ``[rows, V]``, which the next step may overwrite.
        """
        rows = len(self.lengths)
        for static, now in ((self.tokens, tokens), (self.positions, positions)):
            static[:rows, 0] = torch.tensor(now, device=static.device)
        logits = self._run(model, rows)[:rows]
        self.held[:, :rows] += 1
        self.lengths = [[n + 1 for n in row] for row in self.lengths]
        return logits

    def _run(self, model: PreTrainedModel, rows: int) -> torch.Tensor:
        if self.recorder is None:
            return self._forward(model, rows, self._plan(1))
        # empty slots hold nothing and are computed in vain
        rows = min(self.held.shape[1], 1 << (rows - 1).bit_length())
        plan = self._plan(RECORDED_WIDTH)
        if (rows, plan) not in self.recorded:
            replay = self.recorder(lambda: self._forward(model, rows, plan))
            if replay is None:
                self.recorder = None
                return self._forward(model, rows, plan)
            self.recorded[rows, plan] = replay
        return self.recorded[rows, plan]()

    def _plan(self, multiple: int) -> tuple[tuple[int, int], ...]:
        """Make room for a step; by layer, its width and the first layer with the same mask (most presses
        leave one length).
        """
        plan, first = [], {}
        for i, layer in enumerate(self.layers):
            held = tuple(row[i] for row in self.lengths)
            width = -(-(max(held) + 1) // multiple) * multiple
            layer.reserve_step(width)
            masked_in = i if layer.masked_keys is not None else None
            plan.append((width, first.setdefault((held, layer.sliding_window, masked_in), i)))
        return tuple(plan)

    def _forward(self, model: PreTrainedModel, rows: int, plan: tuple[tuple[int, int], ...]) -> torch.Tensor:
        masks: dict[int, torch.Tensor] = {}
        for layer, (width, first) in zip(self.layers, plan, strict=True):
            layer.width = width
            if first not in masks:
                masks[first] = layer.step_mask(rows)
        with attention_implementation(model, BATCHED_ATTENTION):
            out = model(
                input_ids=self.tokens[:rows],
                position_ids=self.positions[:rows],
                cache_position=self.positions[0],
                past_key_values=self,
                use_cache=True,
                slot_masks=[masks[first] for _, first in plan],
            )
        return out.logits[:, -1].float()
