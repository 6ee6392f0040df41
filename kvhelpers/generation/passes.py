"""What forward passes leave of prompts, kept so that other presses on the same prompts need no pass of their
own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kvhelpers.generation.limits import free_bytes

KEPT_SHARE = 0.25  # of the free memory that the passes of a model may take


@dataclass(frozen=True)
class Part:
    """What a forward pass leaves of some consecutive tokens of one prompt.

    By layer: keys and values ``[1, G, N, D]`` and, if they were watched, attention inputs ``[1, N, d]``.
    ``rotary`` is cosines and sines of the positions, ``[1, N, D]`` each; ``logits`` are those after the last
    token ``[V]``, where they were asked for.
    """

    layers: list[tuple[torch.Tensor, torch.Tensor]]
    inputs: list[torch.Tensor]
    rotary: tuple[torch.Tensor, torch.Tensor] | None
    logits: torch.Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Memory of keys, values and inputs, in bytes."""
        return sum(tensor.nbytes for pair in self.layers for tensor in pair) + sum(
            inputs.nbytes for inputs in self.inputs
        )


def joined(first: Part | None, second: Part) -> Part:
    """Two consecutive parts as one, in memory of its own; with None, the second as it is."""
    if first is None:
        return second
    layers = [
        tuple(torch.cat(pair, dim=2) for pair in zip(before, after, strict=True))
        for before, after in zip(first.layers, second.layers, strict=True)
    ]
    inputs = [torch.cat(pair, dim=1) for pair in zip(first.inputs, second.inputs, strict=bool(second.inputs))]
    rotary = second.rotary and tuple(
        torch.cat(pair, dim=1) for pair in zip(first.rotary, second.rotary, strict=True)
    )
    return Part(layers, inputs, rotary, second.logits)


class Passes:
    """Passes of the prompts of one experiment: the prompts' common beginning, and as many of their endings as
    ``limit`` bytes hold; the rest is run again by each condition. Those after another
    beginning, or with another attention implementation, are forgotten.
    """

    def __init__(self, limit: int = 0):
        self.limit, self.held = limit, 0
        self.common: tuple[str, tuple[int, ...]] | None = None  # attention and beginning
        self.beginning_part: Part | None = None
        self.endings: dict[tuple[int, ...], Part] = {}

    @classmethod
    def within_free_memory(cls, device: str) -> Passes:
        """For several conditions: they may take a quarter of the device's free memory."""
        return cls(int(KEPT_SHARE * free_bytes(device)))

    def begin(self, attn: str, beginning: Sequence[int]) -> None:
        """Prompts with this beginning follow, run with this attention implementation."""
        if (attn, tuple(beginning)) != self.common:
            self.forget()
            self.common = (attn, tuple(beginning))

    def keep(self, prompt: Sequence[int], ending: Part) -> None:
        """Keep a prompt's ending if there is room."""
        if tuple(prompt) not in self.endings and self.held + ending.nbytes <= self.limit:
            self.endings[tuple(prompt)] = ending
            self.held += ending.nbytes

    def ending(self, prompt: Sequence[int]) -> Part | None:
        """A prompt's ending, if it is kept."""
        return self.endings.get(tuple(prompt))

    def forget(self) -> None:
        """Free the memory."""
        self.held, self.common, self.beginning_part = 0, None, None
        self.endings.clear()
