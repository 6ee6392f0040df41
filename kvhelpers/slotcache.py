"""A batch of compressed caches behind transformers' own cache interface.

Each row keeps its own length in each layer, so rows of different prompts and presses sit side by side without left padding.
A row can join (a fresh prefill) and leave (its slot is taken by the last row) at any time. Buffers grow by half when full;
a step writes one position per row and copies nothing. Attention goes over grouped heads: the keys are never expanded.
"""

from __future__ import annotations

from contextlib import contextmanager

import torch
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

SLOT_ATTENTION = "kvhelpers_slots"


def slot_attention(module, query, key, value, attention_mask, dropout=0.0, scaling=None, slot_masks=None, **kwargs):
    """Attention of one new token per row to its own cached tokens.

    ``query`` is ``[B, H, 1, D]``, ``key`` and ``value`` are ``[B, G, K, D]``; the query heads of a group are viewed as a
    query length of H / G, so keys are used as they lie. ``slot_masks[layer]`` is boolean, ``[B, 1 or G, 1, K]``.
    """
    rows, heads, _, dim = query.shape
    grouped = query.view(rows, key.shape[1], heads // key.shape[1], dim)
    mask = slot_masks[module.layer_idx]
    out = torch.nn.functional.scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scaling)
    return out.reshape(rows, 1, heads, dim), None


ALL_ATTENTION_FUNCTIONS.register(SLOT_ATTENTION, slot_attention)


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


class SlotLayer(CacheLayerMixin):
    """One layer's buffers ``[slots, G, capacity, D]``; the owning cache says where rows write and what is read."""

    def __init__(self, owner: SlotCache, sliding_window: int | None):
        super().__init__()
        self.owner, self.sliding_window = owner, sliding_window
        self.lengths: torch.Tensor | None = None  # [slots], tokens held by each row
        self.hidden: torch.Tensor | None = None  # [slots, G, capacity], positions a head-wise press masked

    def lazy_initialization(self, key_states, value_states):
        def empty(states):
            return states.new_zeros(0, states.shape[1], 0, states.shape[3])

        self.keys, self.values = empty(key_states), empty(value_states)
        self.lengths = torch.zeros(0, dtype=torch.long, device=key_states.device)
        self.is_initialized = True

    def reserve(self, slots: int, capacity: int) -> None:
        """Grow the buffers to hold at least ``slots`` rows of ``capacity`` tokens."""
        old_slots, groups, old_capacity, _ = self.keys.shape
        if slots <= old_slots and capacity <= old_capacity:
            return
        slots = old_slots if slots <= old_slots else max(slots, 2 * old_slots)
        capacity = max(capacity, old_capacity)

        def grown(old, *shape):
            new = old.new_zeros(*shape)  # zeros, since masked garbage times zero may be NaN
            new[tuple(slice(0, n) for n in old.shape)] = old
            return new

        self.keys = grown(self.keys, slots, groups, capacity, self.keys.shape[3])
        self.values = grown(self.values, slots, groups, capacity, self.values.shape[3])
        self.lengths = grown(self.lengths, slots)
        if self.hidden is not None:
            self.hidden = grown(self.hidden, slots, groups, capacity)

    def put(self, slot: int, keys: torch.Tensor, values: torch.Tensor, hidden: torch.Tensor | None) -> None:
        """Place a prefilled row: keys and values ``[1, G, K, D]``, hidden positions ``[G, K]`` or None."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        length = keys.shape[2]
        self.reserve(slot + 1, length)
        self.keys[slot, :, :length], self.values[slot, :, :length] = keys[0], values[0]
        self.keys[slot, :, length:], self.values[slot, :, length:] = 0, 0  # a failed row may have left NaN, and 0 * NaN is NaN
        self.lengths[slot] = length
        if hidden is not None and self.hidden is None:
            self.hidden = torch.zeros(self.keys.shape[:3], dtype=torch.bool, device=self.keys.device)
        if self.hidden is not None:
            self.hidden[slot] = False
            if hidden is not None:
                self.hidden[slot, :, :length] = hidden

    def move(self, source: int, target: int) -> None:
        """Let the row in slot ``source`` also stand in slot ``target``."""
        for buffer in (self.keys, self.values, self.lengths, self.hidden):
            if buffer is not None:
                buffer[target] = buffer[source]

    def reserve_step(self, rows: int, width: int) -> None:
        """Make room for one more token per row; ``width`` is how far the step's longest row reaches."""
        if width > self.keys.shape[2]:
            self.reserve(rows, max(width, self.keys.shape[2] * 3 // 2, 64))
        self.width = width

    def step_mask(self, rows: int) -> torch.Tensor:
        """Mask ``[rows, 1 or G, 1, width]`` of what each row's next token may see, itself included."""
        position = torch.arange(self.width, device=self.keys.device)
        now = self.lengths[:rows, None]
        mask = position <= now
        if self.sliding_window is not None:
            mask &= position > now - self.sliding_window
        mask = mask[:, None, None, :]
        if self.hidden is not None:
            mask = mask & ~self.hidden[:rows, :, None, : self.width]
        return mask

    def update(self, key_states, value_states, cache_kwargs=None):
        """Append one token to each row; return views of what the step attends to."""
        rows = key_states.shape[0]
        index, now = self.owner.index[:rows], self.lengths[:rows]
        self.keys[index, :, now] = key_states[:, :, 0]
        self.values[index, :, now] = value_states[:, :, 0]
        return self.keys[:rows, :, : self.width], self.values[:rows, :, : self.width]

    def get_seq_length(self) -> int:
        """Longest row."""
        return int(self.lengths.max()) if self.is_initialized else 0

    def get_mask_sizes(self, cache_position):
        return self.get_seq_length() + cache_position.shape[0], 0

    def get_max_cache_shape(self) -> int:
        return -1


class SlotCache(Cache):
    """Rows of compressed caches, decoded together."""

    def __init__(self, model: PreTrainedModel):
        self.windows = [getattr(layer, "sliding_window", None) for layer in DynamicCache(config=model.config).layers]
        super().__init__(layers=[SlotLayer(self, window) for window in self.windows])
        self.lengths: list[list[int]] = []  # per row, per layer: mirrors the layers' tensors without a device sync
        self.index = torch.arange(0)

    @torch.inference_mode()
    def join(self, prefilled: DynamicCache, hidden: list[torch.Tensor | None]) -> None:
        """Add a prefilled row (batch size one) as the last one."""
        slot = len(self.lengths)
        for layer, full, masked in zip(self.layers, prefilled.layers, hidden, strict=True):
            layer.put(slot, full.keys, full.values, masked)
        self.lengths.append([layer.keys.shape[2] for layer in prefilled.layers])
        if len(self.index) <= slot:
            self.index = torch.arange(2 * slot + 1, device=prefilled.layers[0].keys.device)

    @torch.inference_mode()
    def leave(self, slot: int) -> None:
        """Drop a row; the last row takes its slot."""
        last = len(self.lengths) - 1
        if slot != last:
            for layer in self.layers:
                layer.move(last, slot)
        self.lengths[slot] = self.lengths[last]
        self.lengths.pop()

    @torch.inference_mode()
    def step(self, model: PreTrainedModel, tokens: list[int], positions: list[int]) -> torch.Tensor:
        """Feed each row its next token at its true position; return float32 raw logits ``[rows, V]``."""
        rows, device = len(self.lengths), model.device
        masks, shared = [], {}  # layers that hold the same lengths, as most presses leave them, share one mask
        for i, layer in enumerate(self.layers):
            held = tuple(row[i] for row in self.lengths)
            layer.reserve_step(rows, max(held) + 1)
            key = (held, layer.sliding_window, i if layer.hidden is not None else None)
            if key not in shared:
                shared[key] = layer.step_mask(rows)
            masks.append(shared[key])
        with attention_implementation(model, SLOT_ATTENTION):
            out = model(
                input_ids=torch.tensor(tokens, device=device)[:, None],
                position_ids=torch.tensor(positions, device=device)[:, None],
                cache_position=torch.tensor(positions[:1], device=device),
                past_key_values=self,
                use_cache=True,
                slot_masks=masks,
            )
        for layer in self.layers:
            layer.lengths[:rows] += 1
        self.lengths = [[n + 1 for n in row] for row in self.lengths]
        return out.logits[:, -1].float()
