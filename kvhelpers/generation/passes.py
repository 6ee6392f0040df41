"""What forward passes leave of prompts, kept so that other presses on the same prompts need no pass of their
own.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from kvhelpers.generation.limits import free_bytes

KEPT_SHARE = 0.25  # of the free memory, and of the free disk, that the passes of a model may take


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
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def tensors(self) -> list[torch.Tensor]:
        """Keys, values and inputs."""
        return [*itertools.chain.from_iterable(self.layers), *self.inputs]


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


class Spill:
    """Parts on a disk: in a file without a name in ``folder``, which is gone when the process ends, however
    it ends. What is read again stays in memory only as long as nothing else needs it.
    """

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit = folder, limit
        self.empty()

    def write(self, part: Part) -> Part | None:
        """The part with its tensors on the disk; None if there is no room for them."""
        if self.held + part.nbytes > self.limit:
            return None
        try:
            start = self.file.seek(0, 2)
            for tensor in part.tensors:
                self.file.write(tensor.contiguous().view(torch.uint8).numpy())
            self.file.flush()
        except OSError:
            self.limit = 0  # the disk is full
            return None
        self.held += part.nbytes
        whole = torch.from_numpy(np.memmap(self.file, np.uint8, "c", start, (part.nbytes,)))
        pieces = whole.split([tensor.nbytes for tensor in part.tensors])
        there = [
            piece.view(tensor.dtype).view(tensor.shape)
            for piece, tensor in zip(pieces, part.tensors, strict=True)
        ]
        n = 2 * len(part.layers)
        layers = list(zip(there[:n:2], there[1:n:2], strict=True))
        return Part(layers, there[n:], part.rotary, part.logits)

    def empty(self) -> None:
        """Free the disk."""
        self.file, self.held = tempfile.TemporaryFile(dir=self.folder), 0  # noqa: SIM115


class Passes:
    """Passes of the prompts of one experiment: the prompts' common beginning, and as many of their endings as
    ``limit`` bytes of memory hold, and after them a ``spill``; the rest is run again by each condition. Those
    after another beginning, or with another attention implementation, are forgotten.
    """

    def __init__(self, limit: int = 0, spill: Spill | None = None):
        self.limit, self.held, self.spill = limit, 0, spill
        self.common: tuple[str, tuple[int, ...]] | None = None  # attention and beginning
        self.beginning_part: Part | None = None
        self.endings: dict[tuple[int, ...], Part] = {}

    @classmethod
    def of_several_conditions(cls, device: str, folder: Path) -> Passes:
        """They may take a quarter of the device's free memory and, for a CPU, of the disk of ``folder``."""
        spill = None
        if device == "cpu":
            folder.mkdir(parents=True, exist_ok=True)
            spill = Spill(folder, int(KEPT_SHARE * shutil.disk_usage(folder).free))
        return cls(int(KEPT_SHARE * free_bytes(device)), spill)

    def begin(self, attn: str, beginning: Sequence[int]) -> None:
        """Prompts with this beginning follow, run with this attention implementation."""
        if (attn, tuple(beginning)) != self.common:
            self.forget()
            self.common = (attn, tuple(beginning))

    def keep(self, prompt: Sequence[int], ending: Part) -> None:
        """Keep a prompt's ending if there is room."""
        if tuple(prompt) in self.endings:
            return
        if self.held + ending.nbytes <= self.limit:
            self.endings[tuple(prompt)] = ending
            self.held += ending.nbytes
        elif self.spill and (on_disk := self.spill.write(ending)):
            self.endings[tuple(prompt)] = on_disk

    def ending(self, prompt: Sequence[int]) -> Part | None:
        """A prompt's ending, if it is kept."""
        return self.endings.get(tuple(prompt))

    def forget(self) -> None:
        """Free the memory, and the disk."""
        self.held, self.common, self.beginning_part = 0, None, None
        self.endings.clear()
        if self.spill:
            self.spill.empty()
