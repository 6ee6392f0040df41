"""What a policy's choice of run and token adds to the same alarms dealt out anew, condition by condition."""

from __future__ import annotations

from collections.abc import Sequence

from kvhelpers.guard.definition import PERMUTED
from kvhelpers.guard.frontier import curves_of, gain_over, runs_of
from kvhelpers.guard.live_study import LiveStudy
from kvhelpers.records import Shape
from kvhelpers.stats import Estimate


class Choice(Shape):
    """A policy on the ``n`` runs of a condition: how many have an alarm, how many of these so early that no
    token stays, how many end right, and how many do, on average, when the alarms are dealt out anew. ``gain``
    is the difference of both, each above the mixture of its own entries × steps (`frontier.gain_over`).
    """

    condition: str
    n: int
    alarms: int
    from_start: int
    right: int
    right_dealt: float
    gain: Estimate

    @property
    def is_free(self) -> bool:
        """Whether there was anything to choose: not every run has an alarm."""
        return self.alarms < self.n


def choices(study: LiveStudy, experiment: str, policy: str) -> list[Choice]:
    """A policy beside its alarms dealt out anew, by condition."""
    return [_choice(study, experiment, policy, label) for label in curves_of(study, experiment)]


def gain_where_it_chooses(
    study: LiveStudy, experiment: str, policy: str, made: Sequence[Choice]
) -> Estimate | None:
    """The gain over the conditions in which there was something to choose; None if these are none or all."""
    labels = [one.condition for one in made if one.is_free]
    if not labels or len(labels) == len(made):
        return None
    return gain_over(_part(study, labels), experiment, policy, PERMUTED)


def _choice(study: LiveStudy, experiment: str, policy: str, label: str) -> Choice:
    part = _part(study, [label])
    own, dealt = (runs_of(part, experiment, name) for name in (policy, PERMUTED))
    alarms = [run for run in own if run.alarm is not None]
    return Choice(
        condition=label,
        n=len(own),
        alarms=len(alarms),
        from_start=sum(run.keep == 0 for run in alarms),
        right=sum(run.correct for run in own),
        right_dealt=len(own) * sum(run.correct for run in dealt) / len(dealt),
        gain=gain_over(part, experiment, policy, PERMUTED),
    )


def _part(study: LiveStudy, labels: Sequence[str]) -> LiveStudy:
    return study.model_copy(
        update={
            "runs": tuple(run for run in study.runs if run.condition in labels),
            "curves": tuple(point for point in study.curves if point.condition in labels),
        }
    )
