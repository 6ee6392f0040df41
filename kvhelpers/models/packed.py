"""Linear layers whose weights are laid out for fast products.

A decode step multiplies each weight matrix with a few rows. With weights as PyTorch keeps them, the library
rearranges them anew in every product; oneDNN can keep them rearranged (what the inductor's freezing does),
which is faster with few rows and with many (``benchmarks/throughput.py --products``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch
from torch import nn

MEMORY_SHARE = 0.5  # of the free memory that packed weights may take
_ONEDNN = torch.ops.mkldnn


class PackedLinears:
    """A second copy of a model's linear weights, packed for oneDNN.

    ``nbytes`` is the memory that it takes. The model's own weights stay as they are.
    """

    def __init__(self, model: nn.Module):
        packed: dict[int, torch.Tensor] = {}  # tied layers share one
        self.forwards, self.nbytes = [], 0
        for layer in linears(model):
            if (place := layer.weight.data_ptr()) not in packed:
                packed[place] = _ONEDNN._reorder_linear_weight(layer.weight.detach())
                self.nbytes += layer.weight.nbytes
            self.forwards.append((layer, _forward(layer, packed[place])))


def pack(model: nn.Module) -> PackedLinears | None:
    """Pack a model's linear weights; None where that is not possible or would not pay: without oneDNN, on
    other devices than the CPU, in half precision, or with too little free memory.
    """
    weights = {layer.weight.data_ptr(): layer.weight for layer in linears(model)}
    possible = torch.backends.mkldnn.is_available() and hasattr(_ONEDNN, "_reorder_linear_weight")
    if not possible or any(w.device.type != "cpu" or w.dtype != torch.float32 for w in weights.values()):
        return None
    if sum(w.nbytes for w in weights.values()) > MEMORY_SHARE * psutil.virtual_memory().available:
        return None
    return PackedLinears(model)


@contextmanager
def using(packed: PackedLinears | None) -> Iterator[None]:
    """Let a model multiply with its packed weights, if it has them, inside the context."""
    forwards = packed.forwards if packed else ()
    for layer, forward in forwards:
        layer.forward = forward
    try:
        yield
    finally:
        for layer, _ in forwards:
            del layer.forward


def linears(model: nn.Module) -> list[nn.Linear]:
    """The layers that do nothing but multiply with a weight and add a bias."""
    return [module for module in model.modules() if type(module) is nn.Linear]


def _forward(layer: nn.Linear, packed: torch.Tensor):
    return lambda rows: _ONEDNN._linear_pointwise(rows, packed, layer.bias, "none", [], "")
