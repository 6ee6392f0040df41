"""Check a study of predictors without running a model: by its seal."""

from __future__ import annotations

from pathlib import Path

from kvhelpers.hazard.study import read_study
from kvhelpers.paths import study_path


def sealed_command(name: str, root: Path | None = None) -> str:
    """The command that made a study of predictors, of the runs that were there then.

    Raises
    ------
    InputError : there is none, the file is no study, or it was changed.
    """
    return read_study(study_path(name, root)).provenance.command or "not noted"
