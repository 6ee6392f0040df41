"""Studies of actions and of guards: each kind has a script in ``experiments/`` that makes, judges and writes
it.
"""

from __future__ import annotations

import runpy
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kvhelpers.errors import InputError
from kvhelpers.guard.definition import Definition, asked_sources
from kvhelpers.guard.source import Source
from kvhelpers.guard.study import Study, read_study
from kvhelpers.paths import experiment_script, find_results, guard_path, relative

SCRIPTS = {"actions": "011-what-an-action-can-do", "live": "012-live-guard"}


def script_of(kind: str) -> dict[str, Any]:
    """What the script of a kind of study defines. Raises InputError where the script is not there."""
    script = experiment_script(SCRIPTS[kind])
    if not script.is_file():
        raise InputError(f"a study of {kind!r} is made by {script.name}, which is in the repository only")
    return runpy.run_path(str(script))


def run_study(
    definition: Definition, file: str, overrides: Sequence[str] = (), only: Sequence[str] = ()
) -> Path:
    """Write a study's log; return its path. The study is read where it is stored, with the sources that are
    asked for, else it is made, or what is missing of it.

    Raises
    ------
    InputError : a source that is not there, or whose model or prompts are others; no script, before anything
        is generated.
    """
    script = script_of(definition.kind)
    asked = {part.experiment for part in asked_sources(definition, only)} if only else set()
    path = guard_path(definition.name, find_results(definition.name))
    if path.is_file():
        study = read_study(path)
        if is_same(study.definition, definition) and asked <= {part.experiment for part in study.sources}:
            return script["write"](study)
    study = script["make"](definition, command_of(definition, file, overrides, only), only)
    study.save(guard_path(definition.name))
    return script["write"](study)


def is_same(one: Definition, other: Definition) -> bool:
    """Whether two definitions ask for the same study, in whatever words."""
    first, second = (part.model_dump(exclude={"objective", "next_steps"}) for part in (one, other))
    return first == second


def write_stored_log(name: str, root: Path) -> Path:
    """Write the log of the study that lies below ``root``; return the log's path. Raises InputError if the
    file is no study, or its script is not there.
    """
    study = read_study(guard_path(name, root))
    return script_of(study.definition.kind)["write"](study)


def study_faults(name: str, root: Path | None = None) -> tuple[int, list[str]]:
    """How many runs a study holds, and what does not hold beside the runs that it acted on: sentences.

    Raises
    ------
    InputError : the file is no study, or was changed; its sources or its script are not here.
    """
    path = guard_path(name, root)
    study: Study = read_study(path)
    sources = {part.experiment: Source(part) for part in study.sources}
    faults = script_of(study.definition.kind)["faults"](study, sources)
    return len(study.runs), [f"{relative(path)}: {fault}" for fault in faults]


def command_of(definition: Definition, file: str, overrides: Sequence[str], only: Sequence[str]) -> str:
    """The command that runs the study again."""
    parts = ["python", "-m", "kvhelpers", "guard", relative(Path(file))]
    parts += ["--name", definition.name] if Path(file).stem != definition.name else []
    parts += ["--set", *overrides] if overrides else []
    parts += ["--only", *only] if only else []
    return shlex.join(parts)
