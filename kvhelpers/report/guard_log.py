"""The log of a study of actions or of a guard, whichever it is."""

from __future__ import annotations

import runpy
from pathlib import Path

from kvhelpers.errors import InputError
from kvhelpers.guard.actions_study import ActionsStudy, read_actions_study
from kvhelpers.guard.live_study import LiveStudy, read_live_study
from kvhelpers.paths import experiment_script, guard_path, relative
from kvhelpers.report.actions_log import write_actions_log

GUARD = "012-live-guard"  # whose script makes the log of every study of a guard


def write_stored_log(name: str, root: Path) -> Path:
    """Write the log of the study that lies below ``root``; return the log's path. Raises InputError if the
    file is no study.
    """
    return write_guard_log(read_guard_study(guard_path(name, root)))


def write_guard_log(study: ActionsStudy | LiveStudy) -> Path:
    """Write a study's log, figures and tables under its name; return the log's path. Raises InputError where
    a guard's script is not there.
    """
    if isinstance(study, ActionsStudy):
        return write_actions_log(study)
    return runpy.run_path(str(guard_script()))["write"](study)


def guard_script() -> Path:
    """The script that makes the log of a guard. Raises InputError where it is not there."""
    script = experiment_script(GUARD)
    if not script.is_file():
        raise InputError(f"the log of a guard is made by {script.name}, which is in the repository only")
    return script


def read_guard_study(path: Path) -> ActionsStudy | LiveStudy:
    """Read a study. Raises InputError if the file is none, or was changed."""
    for read in (read_actions_study, read_live_study):
        try:
            return read(path)
        except InputError:
            continue
    raise InputError(f"study file {relative(path)} is no study of actions or of a guard, or was changed")
