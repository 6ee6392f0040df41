"""What a run's caches cost: entries held, times the steps that they are held for.

An entry is one token's keys and values in all layers and heads; a fraction of one where heads or layers keep
different tokens. A token of output is a step. The first token of a run, or after an action, is chosen by a
prefill, which holds all of its tokens. Drafts and batches change none of this. After "KV footprint"
(https://arxiv.org/abs/2506.17121).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Stretch:
    """Tokens generated from one prefill.

    ``held`` tokens were prefilled, of which ``kept`` stayed; ``tokens`` came of it, the first from the
    prefill itself; for ``beside`` steps after it the full cache stood beside the compressed one.
    """

    held: int
    kept: float
    tokens: int
    beside: int = 0

    @property
    def entry_steps(self) -> float:
        """Entries times steps."""
        if not self.tokens:
            return 0.0
        later, beside = self.tokens - 1, min(self.beside, self.tokens - 1)
        return self.held + _sum(self.kept, later) + _sum(self.held, beside)

    @property
    def peak(self) -> float:
        """The most entries at once."""
        if not self.tokens:
            return 0.0
        later, beside = self.tokens - 1, min(self.beside, self.tokens - 1)
        both = self.kept + self.held + 2 * beside if beside else 0.0
        return max(self.held, self.kept + later, both)

    @property
    def fed(self) -> int:
        """Tokens that went through the model."""
        later = max(self.tokens - 1, 0)
        return (self.held if self.tokens else 0) + later + min(self.beside, later)


@dataclass(frozen=True)
class Cost:
    """What a run cost: entries × steps, peak entries, tokens through the model, tokens taken back."""

    entry_steps: float
    peak: float
    fed: int
    discarded: int


def cost(stretches: Sequence[Stretch], discarded: int = 0) -> Cost:
    """The cost of a run of these stretches."""
    return Cost(
        sum(stretch.entry_steps for stretch in stretches),
        max(stretch.peak for stretch in stretches),
        sum(stretch.fed for stretch in stretches),
        discarded,
    )


def _sum(entries: float, steps: int) -> float:
    """Entries held over so many steps, one more at each."""
    return steps * entries + steps * (steps + 1) / 2


def over_time(stretches: Sequence[Stretch]) -> list[float]:
    """Entries held at each token that was generated, those taken back included."""
    held = []
    for stretch in stretches:
        for step in range(stretch.tokens):
            beside = stretch.held + step if 0 < step <= stretch.beside else 0
            held.append(stretch.kept + step + beside if step else float(stretch.held))
    return held
