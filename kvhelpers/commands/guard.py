"""Run a study of actions or of a guard: act on finished runs, keep the study as data, write its log."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from kvhelpers.guard.definition import ActionsDefinition, Definition
from kvhelpers.guard.live import make_live_study
from kvhelpers.guard.what_an_action_can_do import make_actions_study
from kvhelpers.paths import continuations_dir, guard_path
from kvhelpers.report.guard_log import guard_script, write_guard_log


def run_study(
    definition: Definition, file: str, overrides: Sequence[str] = (), only: Sequence[str] = ()
) -> Path:
    """Run a study, or what is missing of it, and write its log; return the log's path.

    Raises
    ------
    InputError : a source that is not there, or whose model or prompts are others; of a guard, no script that
        makes its log, before anything is generated.
    """
    if not isinstance(definition, ActionsDefinition):
        guard_script()
    command = command_of(definition, file, overrides, only)
    make = make_actions_study if isinstance(definition, ActionsDefinition) else make_live_study
    study = make(definition, continuations_dir(definition.name), command, only)
    study.save(guard_path(definition.name))
    return write_guard_log(study)


def command_of(definition: Definition, file: str, overrides: Sequence[str], only: Sequence[str]) -> str:
    """The command that runs the study again."""
    parts = ["python", "-m", "kvhelpers", "guard", file]
    parts += ["--name", definition.name] if Path(file).stem != definition.name else []
    parts += ["--set", *overrides] if overrides else []
    parts += ["--only", *only] if only else []
    return shlex.join(parts)
