"""Where everything lies. No other module spells out a folder."""

from __future__ import annotations

import glob
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path

import psutil

from kvhelpers.errors import InputError, check_text

_ABOVE_PACKAGE = Path(__file__).resolve().parents[1]
IS_CLONE = (_ABOVE_PACKAGE / "pyproject.toml").is_file()  # not an installed wheel
REPOSITORY = _ABOVE_PACKAGE if IS_CLONE else Path.cwd()


def output_root() -> Path:
    """Folder that receives ``data/results``, ``experiments`` and ``figures``.

    The repository, or the current folder where the package was installed from a wheel, unless the environment
    variable ``KVHELPERS_OUTPUT`` names another one.
    """
    return Path(os.path.realpath(os.environ.get("KVHELPERS_OUTPUT", REPOSITORY)))


def results_dir(experiment: str, root: Path | None = None) -> Path:
    """Folder of an experiment's conditions, below ``root`` or where this project's runs write."""
    return (root or output_root() / "data" / "results") / experiment


def definition_path(experiment: str, root: Path | None = None) -> Path:
    """The experiment as it was run, beside its results."""
    return results_dir(experiment, root) / "experiment.yaml"


def harness_dir(name: str) -> Path:
    """Folder of the files that lm-evaluation-harness writes itself, for experiments whose names begin so."""
    return results_dir(name) / "harness"


def study_path(name: str, root: Path | None = None) -> Path:
    """A study of predictors as data, below ``root`` or where this project's runs write."""
    return results_dir(name, root) / "study.json"


def guard_path(name: str, root: Path | None = None) -> Path:
    """A study of actions or of a guard as data, below ``root`` or where this project's runs write."""
    return results_dir(name, root) / "guard.json.gz"


def continuations_dir(name: str) -> Path:
    """Where runs that a study took up are kept, one by one."""
    return results_dir(name) / "continuations"


def model_path(name: str) -> Path:
    """A study's model."""
    return results_dir(name) / "model.json"


def replay_path(experiment: str, label: str, prompt_index: int) -> Path:
    """What a run showed of its inside when it was fed again."""
    return output_root() / "data" / "replays" / experiment / label / f"{prompt_index}.npz"


def samples_dir() -> Path:
    """The results that the repository carries, for notebooks that read results."""
    return REPOSITORY / "data" / "samples"


def labels_dir() -> Path:
    """What people said of runs that they read."""
    return REPOSITORY / "data" / "labels"


def find_results(experiment: str, root: str | None = None) -> Path:
    """Folder in which the experiment's results are looked for.

    ``root`` if given, below the repository unless absolute; else where this project's runs write, and, if the
    experiment is not there, the samples that the repository carries. Raises InputError for a number.
    """
    check_text("experiment", experiment)
    if root is not None:
        return REPOSITORY / user_path("results_dir", root)
    results = results_dir(experiment)
    return results.parent if results.is_dir() or not (samples_dir() / experiment).is_dir() else samples_dir()


def figures_dir(experiment: str) -> Path:
    """Folder of an experiment's figures."""
    return output_root() / "figures" / experiment


def log_path(experiment: str) -> Path:
    """The experiment's log."""
    return output_root() / "experiments" / f"{experiment}.md"


def experiment_file(name: str) -> Path:
    """The repository's experiment file of that name."""
    return REPOSITORY / "experiments" / f"{name}.yaml"


def experiment_script(name: str) -> Path:
    """The repository's script of that name, for a study that the helpers do not do by themselves."""
    return REPOSITORY / "experiments" / f"{name}.py"


def notebook_path(name: str) -> Path:
    """A notebook of the repository."""
    return REPOSITORY / "notebooks" / f"{name}.ipynb"


def cache_dir() -> Path:
    """Folder for converted weights: ``KVHELPERS_CACHE``, or ``kvhelpers`` below the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "kvhelpers"
    return Path(os.environ.get("KVHELPERS_CACHE", default))


def relative(path: Path) -> str:
    """``path`` as seen from the output folder or the repository, for messages and logs."""
    path = Path(os.path.realpath(path))  # `Path.resolve` fails on links that lead to themselves
    inside = (
        path.relative_to(root).as_posix() for root in (output_root(), REPOSITORY) if path.is_relative_to(root)
    )
    return next(inside, str(path))


def temporary_beside(path: Path) -> Path:
    """A hidden name beside ``path`` for this process to write to before it renames; the folder is made.

    What processes of this machine that are gone left under such names is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    host = platform.node()
    for left in path.parent.glob(f".{glob.escape(host)}-*-{glob.escape(path.name)}"):
        pid = left.name[len(host) + 2 : -len(path.name) - 1]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
    return path.with_name(f".{host}-{os.getpid()}-{path.name}")


def user_path(parameter: str, value: str) -> Path:
    """A path that a user gave, with ``~`` written out. Raises InputError if no path can be made of it."""
    check_text(parameter, value)
    try:
        if "\0" in value:
            raise ValueError("it has a null character")
        value.encode()  # what cannot be written as UTF-8 can stand in no result
        return Path(value).expanduser()
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{parameter} {value!r} is no path: {error}") from error


def flush(path: Path) -> None:
    """Wait until a file's content is on the disk, so that it survives a power cut under the name it gets
    next.
    """
    with open(path, "rb") as handle:
        os.fsync(handle.fileno())


def write_atomic(path: Path, write: Callable[[Path], object]) -> Path:
    """Let ``write(temporary)`` make the file, then rename it to ``path``: there is never half a file.

    The temporary name keeps the suffix, since some writers choose their format by it.
    """
    temporary = temporary_beside(path)
    try:
        write(temporary)
        flush(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
