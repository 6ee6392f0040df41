"""What a guard is worth, as data: each policy on each run, what it made of the run and what that cost."""

from __future__ import annotations

from pathlib import Path

from kvhelpers.guard.definition import LiveDefinition
from kvhelpers.guard.storage import read_study, write_study
from kvhelpers.hazard.provenance import StudyProvenance
from kvhelpers.records import Shape


class GuardedRun(Shape):
    """A run under a policy, in the ``draw``-th of its draws of lots (0: the only one).

    ``alarm`` is how many new tokens it had when the policy acted, None if it did not; ``keep`` how many
    stayed. ``entry_steps``, ``peak``, ``fed`` and ``discarded`` are the ledger's (`ledger.Cost`);
    ``entry_bytes`` are an entry's bytes.
    """

    experiment: str
    policy: str
    draw: int
    condition: str
    prompt_index: int
    prompt_id: str
    alarm: int | None
    keep: int | None
    correct: bool
    ended: bool
    error: str | None
    tokens: int
    entry_steps: float
    peak: float
    fed: int
    discarded: int
    entry_bytes: float


class CurvePoint(Shape):
    """A run of a press at some ratio, of the curve on which a milder press is interpolated."""

    experiment: str
    condition: str
    ratio: float
    prompt_id: str
    correct: bool
    entry_steps: float


class LiveSource(Shape):
    """An experiment whose runs were guarded; ``n_prompts`` of each condition. ``failing`` are the prompts, by
    condition, whose run under the press alone loops or overruns and does not end right (`acted_runs.onsets`).
    """

    experiment: str
    model: str
    task: str
    dtype: str
    conditions: tuple[str, ...]
    n_prompts: int
    failing: dict[str, tuple[int, ...]]


class LiveCheck(Shape):
    """A policy's prompts of a condition that were guarded while they ran: how many, how many had the tokens
    that were composed, how many were acted on, and what all took together: seconds, and seconds of the
    processor, which other work on the machine lengthens less.
    """

    experiment: str
    policy: str
    condition: str
    n: int
    same: int
    acted: int
    seconds: float
    cpu_seconds: float


class LiveStudy(Shape):
    """All guarded runs, the presses' own curves, and the prompts that were guarded while they ran."""

    provenance: StudyProvenance
    definition: LiveDefinition
    sources: tuple[LiveSource, ...]
    runs: tuple[GuardedRun, ...]
    curves: tuple[CurvePoint, ...]
    checks: tuple[LiveCheck, ...]

    def save(self, path: Path) -> Path:
        """Write the study."""
        return write_study(self, path)


def read_live_study(path: Path) -> LiveStudy:
    """Read a study written by `LiveStudy.save`. Raises InputError if the file is none, or was changed."""
    return read_study(path, LiveStudy, "a guard")
