"""Study what replayed runs tell of failures."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from kvhelpers.errors import InputError
from kvhelpers.experiment.grid import finished_results
from kvhelpers.hazard.inner_study import make_inner_study
from kvhelpers.hazard.splits import FOLDS
from kvhelpers.paths import find_results, inner_study_path


def study_inner(name: str, experiments: Sequence[str], horizon: int) -> None:
    """Make the study of the replayed runs of some experiments and store it under a name.

    Raises
    ------
    InputError : a horizon below 1, an experiment named twice, or as `inner_study.make_inner_study`.
    """
    if horizon < 1:
        raise InputError(f"horizon {horizon} is below 1; it is a number of tokens")
    if len(set(experiments)) < len(experiments):
        raise InputError(f"learn-from {' '.join(experiments)} names an experiment twice; drop one")
    results = [finished_results(experiment, find_results(experiment)) for experiment in experiments]
    words = [
        "python",
        "-m",
        "kvhelpers",
        "inner",
        name,
        "--learn-from",
        *experiments,
        "--horizon",
        str(horizon),
    ]
    make_inner_study(results, horizon, FOLDS, shlex.join(words)).save(inner_study_path(name))
