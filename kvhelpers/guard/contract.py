"""The contract that a guard has to keep, set before any guard ran, and the verdict on each policy."""

from __future__ import annotations

from enum import StrEnum

from kvhelpers.records import Shape
from kvhelpers.stats import Estimate

QUALITY_LOSS = 0.02  # of accuracy against the full cache, at most, by the upper end of the interval
SAVED = 0.20  # of the full cache's entries × steps, more than, by the lower end
SLOW_DOWN = 0.10  # of the full cache's time, at most


class Verdict(StrEnum):
    """Whether a clause, or the contract, is kept."""

    PASS = "pass"
    FAIL = "fail"
    NOT_MEASURED = "not measured"


class Contract(Shape):
    """A policy's clauses."""

    quality: Verdict
    budget: Verdict
    speed: Verdict

    @property
    def whole(self) -> Verdict:
        """The contract's verdict: one clause that fails fails it."""
        clauses = (self.quality, self.budget, self.speed)
        if Verdict.FAIL in clauses:
            return Verdict.FAIL
        return Verdict.NOT_MEASURED if Verdict.NOT_MEASURED in clauses else Verdict.PASS


def judge(loss: Estimate, saved: Estimate, slow_down: float | None) -> Contract:
    """The contract's clauses for a policy: what it loses in accuracy and saves of the budget against the full
    cache, and how much longer it takes; None if that was not timed.
    """
    return Contract(
        quality=_verdict(loss.high is not None and loss.high <= QUALITY_LOSS),
        budget=_verdict(saved.low is not None and saved.low > SAVED),
        speed=Verdict.NOT_MEASURED if slow_down is None else _verdict(slow_down <= SLOW_DOWN),
    )


def _verdict(is_kept: bool) -> Verdict:
    return Verdict.PASS if is_kept else Verdict.FAIL
