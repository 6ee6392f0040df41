"""Tables of a live guard, for its log and as CSV."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from kvhelpers.guard.choice import Choice
from kvhelpers.guard.frontier import PolicyResult
from kvhelpers.guard.live_study import LiveStudy
from kvhelpers.report.format import GAP, p_value, percent, points_of, share
from kvhelpers.stats import Estimate


def policies_table(made: Sequence[PolicyResult]) -> pd.DataFrame:
    """What each policy gains, a row a policy."""
    return pd.DataFrame(
        {
            "Policy": one.policy,
            "Acted on": percent(one.acted),
            "Right": share(one.accuracy),
            "Saved": share(one.saved),
            "Above mixture": points_of(one.above_curve),
            "Above press": points_of(one.above_press),
            "Rescued": f"{one.rescued:.4g}",
            "Harmed": f"{one.harmed:.4g}",
            "p": GAP if one.test is None else p_value(one.test.p),
            "n": one.runs,
        }
        for one in made
    )


def contract_table(made: Sequence[PolicyResult]) -> pd.DataFrame:
    """Each policy's clauses and verdict; what it saves is in `policies_table`."""
    return pd.DataFrame(
        {
            "Policy": one.policy,
            "Loss, points": f"{points_of(one.loss)}: {one.contract.quality}",
            "Saved": one.contract.budget,
            "Slow-down": f"{_signed(one.slow_down)}: {one.contract.speed}",
            "Contract": one.contract.whole,
        }
        for one in made
    )


def choices_table(made: Sequence[Choice]) -> pd.DataFrame:
    """A policy beside its alarms dealt out anew, a row a condition."""
    return pd.DataFrame(
        {
            "Condition": one.condition,
            "n": one.n,
            "Alarms": one.alarms,
            "No token stays": one.from_start,
            "Right": one.right,
            "Right, dealt anew": f"{one.right_dealt:.1f}",
            "Points": points_of(one.gain),
        }
        for one in made
    )


def costs_table(made: Sequence[PolicyResult]) -> pd.DataFrame:
    """What each policy costs beside entries × steps."""
    return pd.DataFrame(
        {
            "Policy": one.policy,
            "Peak, MiB": f"{one.peak / 2**20:.1f}",
            "Tokens fed": percent(one.fed),
            "Taken back": f"{one.discarded:.1f}",
            "Live": f"{one.live_same} of {one.live} the same" if one.live else GAP,
        }
        for one in made
    )


def _signed(value: float | None) -> str:
    return GAP if value is None else f"{100 * value:+.1f} %".replace("-", "−")


def live_tables(study: LiveStudy, made: Sequence[PolicyResult]) -> dict[str, pd.DataFrame]:
    """The study's numbers by name of the CSV file: policies, all runs, and those guarded while they ran."""
    return {
        "policies": pd.DataFrame(
            {
                "experiment": one.experiment,
                "policy": one.policy,
                "draws": one.draws,
                "acted": one.acted,
                **_columns("accuracy", one.accuracy),
                **_columns("loss", one.loss),
                **_columns("saved", one.saved),
                **_columns("above_curve", one.above_curve),
                **_columns("above_press", one.above_press),
                "rescued": one.rescued,
                "harmed": one.harmed,
                "rescued_prompts": one.test and one.test.better,
                "harmed_prompts": one.test and one.test.worse,
                "p": one.test and one.test.p,
                "alarms": one.alarms,
                "from_start": one.from_start,
                "rescued_from_start": one.rescued_from_start,
                "right_alone": one.right_alone,
                "right_acted": one.right_acted,
                "peak_bytes": one.peak,
                "fed": one.fed,
                "discarded": one.discarded,
                "slow_down": one.slow_down,
                "quality": one.contract.quality,
                "budget": one.contract.budget,
                "speed": one.contract.speed,
                "contract": one.contract.whole,
            }
            for one in made
        ),
        "runs": pd.DataFrame(run.model_dump() for run in study.runs),
        "live": pd.DataFrame(check.model_dump() for check in study.checks),
    }


def _columns(name: str, value: Estimate) -> dict[str, float | None]:
    return {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
