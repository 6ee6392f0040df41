"""Check a study of predictors without running a model: by its seal."""

from __future__ import annotations

from pathlib import Path

from kvhelpers.hazard.inner_study import read_inner_study
from kvhelpers.hazard.study import read_study
from kvhelpers.paths import inner_study_path, study_path


def sealed_command(name: str, root: Path | None = None) -> str:
    """The command that made a study of predictors or of inner signals, of the runs that were there then.

    Raises
    ------
    InputError : there is none, the file is no study, or it was changed.
    """
    path = inner_study_path(name, root)
    study = read_inner_study(path) if path.is_file() else read_study(study_path(name, root))
    return study.provenance.command or "not noted"
