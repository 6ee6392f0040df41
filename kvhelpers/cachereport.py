"""What a press left of a prompt's cache, measured."""

from __future__ import annotations

from dataclasses import dataclass

import kvpress
import torch
from transformers import DynamicCache


@dataclass(frozen=True)
class CacheReport:
    """What one prompt's cache holds after its prefill.

    ``kept_tokens`` is the mean over layers and key-value heads, so head-wise and layer-wise presses are measured too;
    ``cache_bytes`` are bytes really held, which head-wise masking does not shrink. ``sink_kept`` is the share of heads
    (first layer aside, whose values do not depend on position) that still hold the prompt's first token, the attention
    sink (Xiao et al. 2024, https://arxiv.org/abs/2309.17453). ``window`` is the press's observation window, or None.
    """

    prompt_tokens: int
    kept_tokens: float
    cache_bytes: int
    full_bytes: int
    sink_kept: float
    window: int | None

    def flags(self, compresses: bool) -> list[str]:
        """Names of `validity.FLAGS` that this cache raises; ``compresses``: the press was asked to remove something."""
        raised = {
            "kept_within_window": self.window is not None and self.kept_tokens <= self.window,
            "prompt_within_window": self.window is not None and self.prompt_tokens <= self.window,
            "sink_evicted": self.sink_kept < 0.5,
            "not_compressed": self.kept_tokens >= self.prompt_tokens,
            "cache_not_shrunk": self.kept_tokens < self.prompt_tokens and self.cache_bytes >= self.full_bytes,
        }
        return [name for name, on in raised.items() if on] if compresses else []


def observation_window(press: kvpress.BasePress | None) -> int | None:
    """Number of last prompt tokens that a press always keeps because it observes from them (SnapKV), or None."""
    while press is not None:
        if hasattr(press, "window_size"):
            return int(press.window_size)
        press = getattr(press, "press", None)
    return None


def measure(
    n_tokens: int,
    cache: DynamicCache,
    hidden: list[torch.Tensor | None],
    sinks: list[tuple[torch.Tensor, torch.Tensor]],
    press: kvpress.BasePress | None,
) -> CacheReport:
    """Report on a compressed cache of one prompt of ``n_tokens``.

    ``hidden`` are positions ``[G, K]`` masked instead of removed, by layer; ``sinks`` are token 0's keys and values
    ``[G, D]`` before the press, by layer.
    """
    kept, sink, held, full = [], [], 0, 0
    for index, (layer, masked) in enumerate(zip(cache.layers, hidden, strict=True)):
        visible = torch.ones(layer.keys.shape[1:3], dtype=torch.bool, device=layer.keys.device)
        if masked is not None:
            visible &= ~masked
        kept.append(visible.sum(-1).float().mean())
        if index or len(cache.layers) == 1:
            keys, values = sinks[index]
            same = (layer.keys[0] == keys[:, None]).all(-1) | (layer.values[0] == values[:, None]).all(-1)
            sink.append((same & visible).any(-1).float().mean())
        held += layer.keys.nbytes + layer.values.nbytes
        full += (layer.keys.nbytes + layer.values.nbytes) // layer.keys.shape[2] * n_tokens
    return CacheReport(
        prompt_tokens=n_tokens,
        kept_tokens=round(torch.stack(kept).double().mean().item(), 3),
        cache_bytes=held,
        full_bytes=full,
        sink_kept=round(torch.stack(sink).double().mean().item(), 4),
        window=observation_window(press),
    )
