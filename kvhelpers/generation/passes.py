"""What forward passes leave of prompts, kept so that other presses on the same prompts need no pass of their
own.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from kvhelpers.generation.limits import free_bytes

KEPT_SHARE = 0.25  # of the free memory, and of the free disk, that the passes of one machine may take


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
        """Memory of keys, values, inputs and logits, in bytes."""
        logits = 0 if self.logits is None else self.logits.nbytes
        return logits + sum(tensor.nbytes for tensor in self.tensors)

    @property
    def tensors(self) -> list[torch.Tensor]:
        """Keys, values and inputs."""
        return [*itertools.chain.from_iterable(self.layers), *self.inputs]


def joined(first: Part | None, second: Part, with_inputs: bool = True) -> Part:
    """Two consecutive parts as one, in memory of its own; with None, the second as it is."""
    if first is None:
        return second
    layers = [
        tuple(torch.cat(pair, dim=2) for pair in zip(before, after, strict=True))
        for before, after in zip(first.layers, second.layers, strict=True)
    ]
    if not with_inputs:
        return Part(layers, [], None, second.logits)
    inputs = [torch.cat(pair, dim=1) for pair in zip(first.inputs, second.inputs, strict=True)]
    rotary = second.rotary and tuple(
        torch.cat(pair, dim=1) for pair in zip(first.rotary, second.rotary, strict=True)
    )
    return Part(layers, inputs, rotary, second.logits)


class Spill:
    """Parts on a disk: in a file without a name in ``folder``, which is gone when the process ends, however
    it ends. What is read stays in memory only as long as nothing else needs it.
    """

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit = folder, limit
        self.empty()

    def write(self, part: Part) -> Callable[[], Part] | None:
        """Write a part's tensors; what reads them, or None if there is no room."""
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
        shapes = [(tensor.shape, tensor.dtype, tensor.nbytes) for tensor in part.tensors]
        return partial(self._read, start, shapes, len(part.layers), part.rotary, part.logits)

    def _read(self, start, shapes, n_layers, rotary, logits) -> Part:
        sizes = [nbytes for *_, nbytes in shapes]
        whole = torch.from_numpy(np.memmap(self.file, np.uint8, "c", start, (sum(sizes),)))
        tensors = [
            piece.view(dtype).view(shape)
            for piece, (shape, dtype, _) in zip(whole.split(sizes), shapes, strict=True)
        ]
        n = 2 * n_layers
        return Part(list(zip(tensors[:n:2], tensors[1:n:2], strict=True)), tensors[n:], rotary, logits)

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
        self.attn, self.beginning = "", ()
        self.beginning_part: Part | None = None
        self.endings: dict[tuple[int, ...], Callable[[], Part]] = {}

    @classmethod
    def of_several_conditions(cls, device: str, folder: Path) -> Passes:
        """They may take a quarter of the device's free memory and, for a CPU, of the disk of ``folder``; a
        process that has some of the machine's cores takes as large a part of the quarter.
        """
        share = KEPT_SHARE * min(1.0, torch.get_num_threads() / (os.cpu_count() or 1))
        if device != "cpu":
            return cls(int(KEPT_SHARE * free_bytes(device)))
        folder.mkdir(parents=True, exist_ok=True)
        spill = Spill(folder, int(share * shutil.disk_usage(folder).free))
        return cls(int(share * free_bytes(device)), spill)

    @property
    def keeps(self) -> bool:
        """Whether endings are kept for other conditions."""
        return self.limit > 0 or self.spill is not None

    @property
    def unused(self) -> int:
        """Bytes of memory that may still be taken."""
        return self.limit - self.held

    def begin(self, attn: str, beginning: Sequence[int]) -> None:
        """Prompts with this beginning follow, run with this attention implementation."""
        if (attn, tuple(beginning)) != (self.attn, self.beginning):
            self.forget()
            self.attn, self.beginning = attn, tuple(beginning)

    def keep(self, prompt: Sequence[int], ending: Part) -> None:
        """Keep a prompt's ending if there is room."""
        if tuple(prompt) in self.endings:
            return
        if self.held + ending.nbytes <= self.limit:
            self.endings[tuple(prompt)] = lambda: ending
            self.held += ending.nbytes
        elif self.spill and (read := self.spill.write(ending)):
            self.endings[tuple(prompt)] = read

    def ending(self, prompt: Sequence[int]) -> Part | None:
        """A prompt's ending, if it is kept."""
        read = self.endings.get(tuple(prompt))
        return read and read()

    def forget(self) -> None:
        """Free the memory, and the disk."""
        self.held, self.attn, self.beginning, self.beginning_part = 0, "", (), None
        self.endings.clear()
        if self.spill:
            self.spill.empty()

    def give_up(self) -> bool:
        """Free the memory for good, since it is needed for rows; whether there was any."""
        had, self.limit = self.held > 0, 0
        self.forget()
        self.spill = None
        return had
