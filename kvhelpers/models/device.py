"""The device and the number format that ``auto`` means on this machine."""

from __future__ import annotations

import torch

from kvhelpers.errors import InputError, unknown_name
from kvhelpers.models.source import DEVICES, DTYPES

TORCH_DTYPES = {name: getattr(torch, name) for name in DTYPES}


def resolve_device(device: str) -> str:
    """``auto`` is CUDA, else MPS, else the CPU.

    Raises
    ------
    InputError : a device that does not exist, or that this machine lacks.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if available[name])
    if device not in available:
        raise unknown_name("device", device, ("auto", *DEVICES))
    if not available[device]:
        here = ", ".join(name for name in DEVICES if available[name])
        raise InputError(f"device {device!r} is not available on this machine; use 'auto' or one of: {here}")
    return device


def resolve_dtype(dtype: str, device: str) -> str:
    """``auto`` is float32 on the CPU, so that results are the same everywhere, and float16 on CUDA and MPS.

    Raises
    ------
    InputError : a number format that is not among `DTYPES`.
    """
    if dtype == "auto":
        return "float32" if device == "cpu" else "float16"
    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, ("auto", *DTYPES))
    return dtype
