"""Values that a press's own fields may have.

Nothing is imported here, so that a bad value is noticed before torch is loaded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Whole:
    """Whole numbers from ``least`` on; ``odd`` ones only; None too if ``optional``."""

    least: int = 0
    odd: bool = False
    optional: bool = False

    def allows(self, value: object) -> bool:
        if value is None:
            return self.optional
        return type(value) is int and value >= self.least and (value % 2 == 1 or not self.odd)

    def __str__(self) -> str:
        kind = "an odd whole number" if self.odd else "a whole number"
        return f"{kind} from {self.least} on{' or null' if self.optional else ''}"


@dataclass(frozen=True)
class Real:
    """Numbers from 0 to ``most``; None too if ``optional``."""

    most: float = math.inf
    optional: bool = False

    def allows(self, value: object) -> bool:
        if value is None:
            return self.optional
        return type(value) in (int, float) and 0 <= value <= self.most

    def __str__(self) -> str:
        reach = "from 0 on" if self.most == math.inf else f"from 0 to {self.most:g}"
        return f"a number {reach}{' or null' if self.optional else ''}"


@dataclass(frozen=True)
class OneOf:
    """Some words."""

    words: tuple[str, ...]

    def allows(self, value: object) -> bool:
        return value in self.words

    def __str__(self) -> str:
        return f"one of {', '.join(self.words)}"
