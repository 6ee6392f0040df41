"""Whether a GGUF file's header may be read: every count and length in it must fit into the file.

Readers believe the header, and a wrong count keeps them busy until memory is full. The format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from kvhelpers.errors import InputError

VERSIONS = (2, 3)
SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # by value type
STRING, ARRAY = 8, 9
MOST_DIMENSIONS = 4


def check_header(path: Path) -> None:
    """Walk through a little-endian GGUF header without believing it.

    Raises
    ------
    InputError : it is no such header, or it says more than the file holds.
    """
    if path.stat().st_size == 0:
        raise InputError("it is empty")
    header = _Header(np.memmap(path, mode="r"))
    if header.take(4) != b"GGUF" or header.number("I") not in VERSIONS:
        raise InputError("it does not begin as a GGUF file of version 2 or 3")
    tensors, pairs = header.number("Q"), header.number("Q")
    for _ in range(pairs):
        header.skip_string()
        header.skip_value(header.number("I"))
    for _ in range(tensors):
        header.skip_tensor()
    if not pairs or not tensors:
        raise InputError(f"it has {pairs} metadata and {tensors} tensors")


class _Header:
    """A place in a file's bytes that only moves forward, and never beyond their end."""

    def __init__(self, data: np.ndarray):
        self.data, self.place = data, 0

    def skip(self, n: int) -> None:
        if n > len(self.data) - self.place:
            raise InputError(f"its header says more than the file holds, at byte {self.place}")
        self.place += n

    def take(self, n: int) -> bytes:
        self.skip(n)
        return self.data[self.place - n : self.place].tobytes()

    def number(self, kind: str) -> int:
        return struct.unpack(f"<{kind}", self.take(struct.calcsize(kind)))[0]

    def skip_string(self) -> None:
        self.skip(self.number("Q"))

    def skip_value(self, kind: int) -> None:
        if kind in SCALAR_BYTES:
            self.skip(SCALAR_BYTES[kind])
        elif kind == STRING:
            self.skip_string()
        elif kind == ARRAY:
            self.skip_array()
        else:
            raise InputError(f"its header has a value of unknown type {kind}, at byte {self.place}")

    def skip_array(self) -> None:
        kind, n = self.number("I"), self.number("Q")
        if kind in SCALAR_BYTES:
            self.skip(n * SCALAR_BYTES[kind])
        elif kind == STRING:
            for _ in range(n):
                self.skip_string()
        else:
            raise InputError(f"its header has an array of type {kind}, at byte {self.place}")

    def skip_tensor(self) -> None:
        self.skip_string()
        n_dimensions = self.number("I")
        if n_dimensions > MOST_DIMENSIONS:
            raise InputError(f"its header has a tensor of {n_dimensions} dimensions, at byte {self.place}")
        self.skip(8 * n_dimensions + 4 + 8)
