"""Formats in which a cache may hold keys and values: their names, their bits, and what goes with them.

Torch is not imported here, so that a misspelt name is noticed before it is loaded; `generation.formats`
rounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from kvhelpers.errors import InputError, shown, unknown_name
from kvhelpers.presses.fields import Whole
from kvhelpers.presses.registry import NONE

FULL_BITS = 16  # of a value that is not rounded, whatever the model's own type: what engines hold
GROUPED = {"int4": 4, "int2": 2}  # rounded in groups, as KIVI does (https://arxiv.org/abs/2402.02750)
# bits of a value with its share of its block's scale; the names without underline are torch's or KIVI's, the
# others llama.cpp's, whose blocks are of 32
BITS: Mapping[str, float] = {
    NONE: FULL_BITS,
    "f16": 16,
    "bf16": 16,
    "fp8_e4m3": 8,
    "fp8_e5m2": 8,
    "q8_0": 8.5,
    "q5_1": 6,
    "q5_0": 5.5,
    "q4_1": 5,
    "q4_0": 4.5,
    **GROUPED,
}
GROUP_BITS = 32  # a group's scale and its minimum, 16 each
OWN = {"group": Whole(1), "residual": Whole(1), "protect_tokens": Whole()}


@dataclass(frozen=True)
class CacheFormats:
    """In which formats keys ``k`` and values ``v`` are held.

    ``group`` and ``residual`` are of `GROUPED` formats: keys are rounded channel by channel in groups of so
    many tokens, values token by token in groups of so many channels, and of each row so many of the latest
    tokens wait in full. Not rounded are the first ``protect_tokens`` of the prompt that are kept, and
    ``protect_layers`` (from 0 on; −1 is the last one). With ``rotate`` vectors are turned by a Hadamard
    matrix before they are rounded, and back afterwards.
    """

    k: str = NONE
    v: str = NONE
    group: int = 32
    residual: int = 128
    protect_tokens: int = 0
    protect_layers: tuple[int, ...] = ()
    rotate: bool = False

    @classmethod
    def of(cls, k: str, v: str, kwargs: Mapping[str, Any]) -> CacheFormats:
        """Formats by the parameters ``cache_type_k``, ``cache_type_v`` and ``cache_kwargs``.

        Raises
        ------
        InputError : an unknown name or key; a value out of range or without effect.
        """
        for parameter, name in (("cache_type_k", k), ("cache_type_v", v)):
            if name not in list(BITS):
                raise unknown_name(parameter, name, BITS)
        keys = [field.name for field in fields(cls) if field.name not in ("k", "v")]
        for key, value in kwargs.items():
            _check(key, value, keys, (k, v))
        layers = tuple(kwargs.get("protect_layers", ()))
        made = cls(k, v, **{**kwargs, "protect_layers": layers})
        if made.grouped and made.residual % made.group:
            raise InputError(
                f"cache_kwargs residual {made.residual} is not allowed; it is a multiple of group "
                f"{made.group}"
            )
        return made

    def __bool__(self) -> bool:
        return (self.k, self.v) != (NONE, NONE)

    @property
    def grouped(self) -> bool:
        """Whether keys or values are rounded in groups."""
        return bool({self.k, self.v} & GROUPED.keys())

    @property
    def in_order(self) -> bool:
        """Whether it matters in which order a row's tokens lie."""
        return self.grouped or (bool(self) and self.protect_tokens > 0)

    def bits(self, name: str) -> float:
        """Bits of a rounded value, with its share of what its block or group has in common."""
        return BITS[name] + (GROUP_BITS / self.group if name in GROUPED else 0)


UNROUNDED = CacheFormats()


def _check(key: str, value: Any, keys: list[str], names: tuple[str, str]) -> None:
    if key not in keys:
        raise unknown_name("cache_kwargs: key", key, keys)
    if names == (NONE, NONE):
        raise InputError(
            f"cache_kwargs {key} {shown(value)} makes no sense without a cache_type; leave it out"
        )
    if key in ("group", "residual") and not GROUPED.keys() & set(names):
        raise InputError(
            f"cache_kwargs {key} {shown(value)} makes no sense with {' and '.join(map(repr, names))}; it is "
            f"of {' and '.join(GROUPED)}"
        )
    if key in OWN:
        allows, allowed = OWN[key].allows(value), str(OWN[key])
    elif key == "rotate":
        allows, allowed = isinstance(value, bool), "true or false"
    else:
        allows = isinstance(value, list | tuple) and all(type(layer) is int for layer in value)
        allowed = "a list of layers, such as [0, -1]"
    if not allows:
        raise InputError(f"cache_kwargs {key} {shown(value)} is not allowed; it is {allowed}")
