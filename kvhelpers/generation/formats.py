"""Round what a cache holds to a format of fewer bits.

A format is a function of a tensor ``[…, T, D]`` of keys or values that gives it back with its values on the
format's levels: what would be read if it were stored so. It simulates the format, and none of the engines'
kernels. Most formats round each token for itself, when it is written, so that it does not matter in which
batch, pass or draft it was. Those of `presses.cache_formats.GROUPED` round tokens together, later: keys when
``residual`` of them wait, values when more than ``residual`` do, oldest first, always at the end of a step,
as KIVI's own code does (https://arxiv.org/abs/2402.02750).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
from transformers import DynamicCache

from kvhelpers.errors import InputError
from kvhelpers.presses.cache_formats import FULL_BITS, GROUPED, CacheFormats

BLOCK = 32  # values of a head that have a scale in common
Round = Callable[[torch.Tensor], torch.Tensor]


def _cast(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return x.to(dtype)


def _float8(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Without a scale, as vLLM's caches are unless they were calibrated; what is too large becomes the
    largest number, where torch's own e5m2 gives infinity.
    """
    most = torch.finfo(dtype).max
    return x.clamp(-most, most).to(dtype)


def _blocks(x: torch.Tensor) -> torch.Tensor:
    if x.shape[-1] % BLOCK:
        raise InputError(
            f"a head of {x.shape[-1]} dimensions cannot be held in blocks of {BLOCK}; choose a cache_type "
            "without blocks: f16, bf16, fp8_e4m3, fp8_e5m2"
        )
    return x.unflatten(-1, (-1, BLOCK))


def _half(x: torch.Tensor) -> torch.Tensor:
    """As a scale is stored."""
    return x.half().float()


def _inverse(scale: torch.Tensor) -> torch.Tensor:
    return torch.where(scale == 0, 0, 1 / scale)


def _symmetric(x: torch.Tensor, levels: int) -> torch.Tensor:
    """llama.cpp's q4_0 and q5_0: the value furthest from 0 is level 0 of ``2 * levels``."""
    blocks = _blocks(x)
    scale = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True)) / -levels
    places = (blocks * _inverse(scale) + (levels + 0.5)).trunc().clamp(0, 2 * levels - 1)
    return (_half(scale) * (places - levels)).flatten(-2)


def _affine(x: torch.Tensor, levels: int) -> torch.Tensor:
    """llama.cpp's q4_1 and q5_1: from the smallest value to the largest in ``levels`` steps."""
    blocks = _blocks(x)
    low, high = blocks.aminmax(dim=-1, keepdim=True)
    scale = (high - low) / levels
    places = ((blocks - low) * _inverse(scale) + 0.5).trunc().clamp(0, levels)
    return (_half(scale) * places + _half(low)).flatten(-2)


def _eight_bits(x: torch.Tensor) -> torch.Tensor:
    """llama.cpp's q8_0; halves are rounded away from 0."""
    blocks = _blocks(x)
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    scaled = blocks * _inverse(scale)
    below = scaled.abs().floor()
    places = (below + (2 * (scaled.abs() - below)).floor()).copysign(scaled)
    return (places * _half(scale)).flatten(-2)


# by name, of float32
ROUND: dict[str, Round] = {
    "f16": partial(_cast, dtype=torch.float16),
    "bf16": partial(_cast, dtype=torch.bfloat16),
    "fp8_e4m3": partial(_float8, dtype=torch.float8_e4m3fn),
    "fp8_e5m2": partial(_float8, dtype=torch.float8_e5m2),
    "q8_0": _eight_bits,
    "q5_1": partial(_affine, levels=31),
    "q5_0": partial(_symmetric, levels=16),
    "q4_1": partial(_affine, levels=15),
    "q4_0": partial(_symmetric, levels=8),
}


def round_groups(x: torch.Tensor, bits: int, group: int, dim: int) -> torch.Tensor:
    """Round float32 ``[…, T, D]`` in groups along ``dim`` (−2 tokens, −1 channels), each from its smallest
    value to its largest in ``2**bits - 1`` steps; scale and minimum have 16 bits.
    """
    if x.shape[dim] % group:
        raise InputError(
            f"cache_kwargs group {group} does not divide a head's {x.shape[dim]} dimensions; choose one that "
            "does"
        )
    groups, steps = x.unflatten(dim, (-1, group)), 2**bits - 1
    low, high = groups.aminmax(dim=dim, keepdim=True)
    scale, low = _half((high - low) / steps), _half(low)
    places = ((groups - low) * _inverse(scale)).round().clamp(0, steps)
    return (places * scale + low).flatten(dim - 1, dim)


@cache
def _hadamard(size: int, device: torch.device) -> torch.Tensor:
    """The orthonormal symmetric Hadamard matrix (Sylvester's)."""
    if size & (size - 1):
        raise InputError(
            f"cache_kwargs rotate is not allowed: a head has {size} dimensions, which is no power of two"
        )
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), matrix)
    return (matrix / size**0.5).to(device)


@dataclass(frozen=True)
class Rounding:
    """Rounds a layer's keys and values ``[…, T, D]`` as its formats say."""

    formats: CacheFormats

    def written(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values as they are written: those that are rounded token by token are rounded."""
        parts = ((keys, self.formats.k), (values, self.formats.v))
        return tuple(self._rounded(part, ROUND.get(name)) for part, name in parts)

    def prompt(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same of a prefilled row, without its protected tokens."""
        first = self.formats.protect_tokens
        rounded = self.written(keys[..., first:, :], values[..., first:, :])
        pairs = zip((keys, values), rounded, strict=True)
        return tuple(torch.cat([whole[..., :first, :], part], dim=-2) for whole, part in pairs)

    def key_groups(self, keys: torch.Tensor) -> torch.Tensor:
        """Keys whose tokens are whole groups, rounded channel by channel."""
        bits, group = GROUPED[self.formats.k], self.formats.group
        return self._rounded(keys, partial(round_groups, bits=bits, group=group, dim=-2))

    def value_groups(self, values: torch.Tensor) -> torch.Tensor:
        """Values rounded token by token, in groups of channels."""
        bits, group = GROUPED[self.formats.v], self.formats.group
        return self._rounded(values, partial(round_groups, bits=bits, group=group, dim=-1))

    def _rounded(self, x: torch.Tensor, function: Round | None) -> torch.Tensor:
        if function is None or not x.shape[-2]:
            return x
        if not self.formats.rotate:
            return function(x.float()).to(x.dtype)
        turn = _hadamard(x.shape[-1], x.device)
        return (function(x.float() @ turn).float() @ turn).to(x.dtype)


def roundings(formats: CacheFormats, layers: int) -> list[Rounding | None]:
    """What rounds each layer; None where nothing does.

    Raises
    ------
    InputError : a protected layer that is not there, or no other one.
    """
    for layer in formats.protect_layers:
        if not -layers <= layer < layers:
            raise InputError(
                f"cache_kwargs protect_layers {layer} is not allowed: the model has {layers} layers, 0 to "
                f"{layers - 1}"
            )
    protected = {layer % layers for layer in formats.protect_layers}
    if formats and len(protected) == layers:
        raise InputError(
            "cache_kwargs protect_layers names all layers, so that nothing is rounded; leave one"
        )
    return [Rounding(formats) if formats and layer not in protected else None for layer in range(layers)]


def grouped_until(formats: CacheFormats, held: int, rounded: tuple[int, int]) -> tuple[int, int]:
    """Up to which place the keys and the values of a row that holds so many tokens are rounded in groups, at
    the end of a step; ``rounded`` is up to where they were.
    """
    keys, values = rounded
    if formats.k in GROUPED:
        keys += (held - keys) // formats.residual * formats.residual
    if formats.v in GROUPED:
        values = max(values, held - formats.residual)
    return keys, values


def room(formats: CacheFormats, held: int, rounded: tuple[int, int]) -> float:
    """How many tokens a row may be fed at most until some are rounded in groups."""
    keys = formats.residual + rounded[0] - held if formats.k in GROUPED else math.inf
    values = formats.residual + 1 + rounded[1] - held if formats.v in GROUPED else math.inf
    return min(keys, values)


def nominal_bytes(cache: DynamicCache, formats: CacheFormats) -> int:
    """Bytes of a prompt's cache after its prefill: the values of tokens that are rounded have their format's
    bits, all others 16, whatever the model's own type.
    """
    bits = 0.0
    for layer, rounding in zip(cache.layers, roundings(formats, len(cache.layers)), strict=True):
        held = layer.keys.shape[2]
        first = min(formats.protect_tokens, held) if rounding else held
        until = grouped_until(formats, held, (first, first)) if rounding else (held, held)
        ends = zip((layer.keys, layer.values), (formats.k, formats.v), until, strict=True)
        for part, name, end in ends:
            rounded = (end if name in GROUPED else held) - first
            of_token = part.shape[1] * part.shape[3]
            bits += of_token * (rounded * formats.bits(name) + (held - rounded) * FULL_BITS)
    return round(bits / 8)
