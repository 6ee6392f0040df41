"""How many runs have failed by a token, where ending by itself competes with failing."""

from __future__ import annotations

import numpy as np
import pandas as pd

from kvhelpers.hazard.events import Event
from kvhelpers.records import Shape

AT_RISK = 5  # runs; with fewer left a curve ends


class IncidenceCurve(Shape):
    """Cumulative incidence of failure of a condition's ``runs``; ``removed`` is their mean share of the
    prompt's cache that was removed.
    """

    task: str
    press: str
    condition: str
    removed: float
    runs: int
    tokens: tuple[int, ...]
    incidence: tuple[float, ...]


def incidence_curves(runs: pd.DataFrame) -> tuple[IncidenceCurve, ...]:
    """The curve of each task and condition of a risk set's runs."""
    curves = []
    for (task, condition), part in runs.groupby(["task", "condition"], sort=False):
        curve = incidence(part)
        curves.append(
            IncidenceCurve(
                task=task,
                press=part["press"].iloc[0],
                condition=condition,
                removed=part["removed"].mean(),
                runs=len(part),
                tokens=tuple(curve["tokens"].tolist()),
                incidence=tuple(curve["incidence"].tolist()),
            )
        )
    return tuple(curves)


def incidence(runs: pd.DataFrame) -> pd.DataFrame:
    """Cumulative incidence of failure by new tokens, with healthy ends as the competing event (Aalen and
    Johansen 1978), of a risk set's runs.

    Columns ``tokens, incidence``: a row for 0 and for each number of tokens at which a run has its event or
    is censored, as long as at least 5 runs are at risk. Runs that fail, end or are censored at the same token
    are all at risk there. A failure with its onset at token 0 counts at 1 token.
    """
    times = runs["time"].to_numpy() + 1
    failed, ended = runs["failed"].to_numpy(), (runs["event"] == Event.END).to_numpy()
    tokens, place = np.unique(np.concatenate([[0], times]), return_inverse=True)
    place = place[1:]
    failures = np.bincount(place[failed], minlength=len(tokens))
    events = failures + np.bincount(place[ended], minlength=len(tokens))
    at_risk = len(runs) - np.searchsorted(np.sort(times), tokens)
    healthy = np.cumprod(1 - events / at_risk)  # neither failed nor ended, after each token
    share = np.cumsum(np.append(1.0, healthy[:-1]) * failures / at_risk)
    return pd.DataFrame({"tokens": tokens, "incidence": share})[at_risk >= AT_RISK]
