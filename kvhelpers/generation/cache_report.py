"""What a press left of a prompt's cache, measured."""

from __future__ import annotations

import kvpress
import torch
from transformers import DynamicCache

from kvhelpers.presses.kinds import observation_window
from kvhelpers.records import CacheReport


def measure(
    n_tokens: int,
    cache: DynamicCache,
    masked_keys: list[torch.Tensor | None],
    sinks: list[tuple[torch.Tensor, torch.Tensor]],
    press: kvpress.BasePress | None,
) -> CacheReport:
    """Report on a compressed cache of one prompt of ``n_tokens``.

    ``masked_keys`` mark keys ``[G, K]`` that are masked instead of removed, by layer; ``sinks`` are token 0's
    keys and values ``[G, D]`` before the press, by layer.
    """
    kept, sink, held, full = [], [], 0, 0
    for index, (layer, masked) in enumerate(zip(cache.layers, masked_keys, strict=True)):
        visible = torch.ones(layer.keys.shape[1:3], dtype=torch.bool, device=layer.keys.device)
        if masked is not None:
            visible &= ~masked
        kept.append(visible.sum(-1).float().mean())
        if index or len(cache.layers) == 1:
            keys, values = sinks[index]
            same = (layer.keys[0] == keys[:, None]).all(-1) | (layer.values[0] == values[:, None]).all(-1)
            sink.append((same & visible).any(-1).float().mean())
        layer_bytes = layer.keys.nbytes + layer.values.nbytes
        held += layer_bytes
        full += layer_bytes // layer.keys.shape[2] * n_tokens
    return CacheReport(
        prompt_tokens=n_tokens,
        kept_tokens=round(torch.stack(kept).double().mean().item(), 3),
        cache_bytes=held,
        full_bytes=full,
        sink_kept=round(torch.stack(sink).double().mean().item(), 4),
        window=observation_window(press),
    )
