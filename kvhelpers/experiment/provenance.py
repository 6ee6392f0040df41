"""Where a condition's results come from: code, packages, machine and command. What determined the tokens, the
model and the data among it, is in `identity`.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from kvhelpers.experiment.condition import Condition
from kvhelpers.experiment.identity import identity
from kvhelpers.paths import IS_CLONE, REPOSITORY
from kvhelpers.records import Machine, Provenance, SelfCheck

PACKAGES = ("kvhelpers", "torch", "transformers", "kvpress", "datasets")
CPU_INFO = Path("/proc/cpuinfo")


def provenance(
    condition: Condition,
    command: str | None = None,
    commits: Iterable[str] = (),
    ignored: Mapping[str, Any] | None = None,
    check: SelfCheck | None = None,
) -> Provenance:
    """Where results of a condition come from that this process makes now, by this command (None: notebook
    01's); ``commits`` are those at which its prompts ran, ``ignored`` the settings of the model's
    generation config that they did not follow, ``check`` that of the model.
    """
    commit, clean = code_version()
    return Provenance(
        commit=commit,
        clean=clean,
        command=command or notebook_command(condition),
        versions=package_versions(PACKAGES),
        machine=machine(condition),
        earlier_commits=sorted(set(commits) - {commit, ""}),
        ignored_generation_config=dict(ignored or {}),
        self_check=check,
    )


def worst_check(checks: Iterable[SelfCheck | None]) -> SelfCheck | None:
    """Of the checks of a model, by all that ran prompts, the one that was not made in float32, or with the
    largest deviation; None if one did not check.
    """
    checks = list(checks)
    return (
        None
        if None in checks
        else max(checks, key=lambda check: (check.exact_deviation is None, check.deviation))
    )


def package_versions(names: Sequence[str]) -> dict[str, str]:
    """The versions of packages, and of Python."""
    versions = {name: importlib.metadata.version(name) for name in names}
    return versions | {"python": platform.python_version()}


@cache
def code_version() -> tuple[str | None, bool | None]:
    """The git commit of this repository when the process first asked, and whether ``kvhelpers/`` had no
    changes beside it; None without git.
    """
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None, None
    changed = _git("status", "--porcelain", "--", "kvhelpers")
    return commit, None if changed is None else not changed


def _git(*arguments: str) -> str | None:
    if not (IS_CLONE and (REPOSITORY / ".git").exists()):  # an installed package has none of its own
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(REPOSITORY), *arguments], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def machine(condition: Condition) -> Machine:
    """This machine, as the condition uses it."""
    import torch  # takes seconds, and only what runs a condition needs it

    from kvhelpers.models.device import resolve_device

    device = resolve_device(condition.device)
    return Machine(
        system=platform.system(),
        processor=processor(),
        cores=os.cpu_count(),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        torch_threads=torch.get_num_threads(),
        load=round(psutil.getloadavg()[2], 1),
        device=torch.cuda.get_device_name() if device == "cuda" else device,
        dtype=identity(condition)["dtype"],
    )


def processor() -> str:
    """The CPU's model where Linux names it, else its architecture."""
    try:
        lines = CPU_INFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def notebook_command(condition: Condition) -> str:
    """The papermill command that runs this condition in notebook 01."""
    values = condition.model_dump(exclude_defaults=True)
    text = [value if isinstance(value, str) else json.dumps(value) for value in values.values()]
    parameters = [part for name, value in zip(values, text, strict=True) for part in ("-p", name, value)]
    return shlex.join(["papermill", "notebooks/01_reproduce.ipynb", "out.ipynb", *parameters])
