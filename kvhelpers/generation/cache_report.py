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
    before: list[tuple[torch.Tensor, torch.Tensor]],
    press: kvpress.BasePress | None,
) -> CacheReport:
    """Report on a compressed cache of one prompt of ``n_tokens``.

    ``masked_keys`` mark keys ``[G, K]`` that are masked instead of removed, by layer; ``before`` are keys and
    values ``[G, 1+Q, D]`` of token 0 and of the Q tokens of the question, before the press, by layer.
    """
    kept, there, held, full = [], [], 0, 0
    for index, (layer, masked) in enumerate(zip(cache.layers, masked_keys, strict=True)):
        visible = torch.ones(layer.keys.shape[1:3], dtype=torch.bool, device=layer.keys.device)
        if masked is not None:
            visible &= ~masked
        kept.append(visible.sum(-1).float().mean())
        if index or len(cache.layers) == 1:
            whole = zip(before[index], (layer.keys[0], layer.values[0]), strict=True)
            same = torch.stack([same_vectors(*pair) for pair in whole]).any(0)  # [G, 1+Q, K]
            there.append((same & visible[:, None]).any(-1).float().mean(0))
        layer_bytes = layer.keys.nbytes + layer.values.nbytes
        held += layer_bytes
        full += layer_bytes // layer.keys.shape[2] * n_tokens
    there = torch.stack(there).double().mean(0)
    return CacheReport(
        prompt_tokens=n_tokens,
        kept_tokens=round(torch.stack(kept).double().mean().item(), 3),
        cache_bytes=held,
        full_bytes=full,
        sink_kept=round(there[0].item(), 4),
        window=observation_window(press),
        question_kept=round(there[1:].mean().item(), 4) if len(there) > 1 else None,
    )


def same_vectors(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Which vectors ``[G, N, D]`` and ``[G, K, D]`` are equal, ``[G, N, K]``. Equal ones have the same sum of
    their bits, whatever they are beside; so sums, which need little memory, stand for them.
    """
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[one.element_size()]
    draw = torch.Generator().manual_seed(0)
    weights = torch.randint(2**40, (one.shape[-1],), generator=draw).to(one.device)
    sums = [((each + 0.0).view(whole).long() * weights).sum(-1) for each in (one, other)]
    return sums[0][:, :, None] == sums[1][:, None]
