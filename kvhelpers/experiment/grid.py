"""Experiments as data: a YAML file names objective, model, task, sizes and a grid of presses."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kvhelpers.errors import InputError, unknown_name
from kvhelpers.experiment.condition import EXPERIMENT_NAME, GRID_KEYS, Condition, make_condition
from kvhelpers.experiment.results import ConditionResult, read_experiment
from kvhelpers.paths import REPOSITORY, experiment_file, relative, results_dir, user_path, write_atomic


class Contrast(BaseModel):
    """Two conditions of an experiment, by label, that its log compares under the words of ``about``."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    about: str
    first: str
    second: str


class Experiment(BaseModel):
    """An experiment file.

    ``parameters`` are `Condition` fields shared by all conditions; each ``grid`` entry adds its own. A list
    in an entry stands for one condition with each of its values, several lists for each combination.
    ``contrasts`` are pairs of conditions, ``first`` and ``second`` by label, that the log compares under the
    words of ``about``. ``command`` is what runs the experiment; it is noted when the file is loaded.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str
    objective: str
    parameters: dict[str, Any] = {}
    grid: list[dict[str, Any]] = Field(min_length=1)
    contrasts: list[Contrast] = []
    next_steps: str = ""
    command: str = ""

    def entries(self) -> list[dict[str, Any]]:
        """The grid's entries with their lists written out. Raises InputError for an unknown key or an empty
        list.
        """
        entries = []
        for entry in self.grid:
            for key, value in entry.items():
                if key not in GRID_KEYS:
                    raise unknown_name("grid key", key, GRID_KEYS)
                if value == []:
                    raise InputError(
                        f"grid key {key!r} has an empty list, so that the grid has no condition of it; "
                        "name a value"
                    )
            values = [value if isinstance(value, list) else [value] for value in entry.values()]
            entries += [dict(zip(entry, chosen, strict=True)) for chosen in itertools.product(*values)]
        return entries

    def labels(self) -> list[str]:
        """The conditions' labels, in the grid's order; reads no data."""
        return [
            Condition(**{**self.parameters, **entry, "experiment": self.name}).label()
            for entry in self.entries()
        ]

    def conditions(self) -> list[Condition]:
        """The conditions, checked as far as that needs no torch (`identity.check_here` does the rest).

        Raises InputError for the first bad one, or two that write to one place.
        """
        conditions = [
            make_condition({**self.parameters, **entry, "experiment": self.name}) for entry in self.entries()
        ]
        labels = [condition.label() for condition in conditions]
        for label in (label for contrast in self.contrasts for label in (contrast.first, contrast.second)):
            if label not in labels:
                raise unknown_name("contrast condition", label, labels)
        places = [(condition.press, condition.stem()) for condition in conditions]
        for place in places:
            if places.count(place) > 1:
                raise InputError(
                    f"grid has two conditions that write to {'/'.join(place)}; change or drop one"
                )
        return conditions


def load_experiment(
    path: Path, name: str | None = None, overrides: dict[str, Any] | None = None, saved: bool = False
) -> Experiment:
    """Read an experiment file, with parameters overridden under a name of its own.

    A file may come from anyone, so its paths stay inside the repository; overrides are the user's own, and a
    ``saved`` file (`save_experiment`) has them in it.

    Raises
    ------
    InputError : unreadable or malformed file, unknown key, a path that leaves the repository, overrides
        without a new name.
    """
    try:
        data = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise InputError(f"experiment file {str(path)!r} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(
            f"experiment file {str(path)!r} is no YAML: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(data, dict):
        raise InputError(
            f"experiment file {str(path)!r} holds no mapping; it needs {', '.join(Experiment.model_fields)}"
        )
    for key in data:
        if key not in Experiment.model_fields:
            raise unknown_name(f"experiment file {str(path)!r}: key", key, Experiment.model_fields)
    for key in overrides or {}:
        if key in (*GRID_KEYS, "experiment"):
            raise InputError(
                f"--set {key} has no effect on a grid; edit a copy of the experiment file, or use --name"
            )
    if overrides and (name is None or name == data.get("name")):
        raise InputError("overrides need a new experiment name, so that nothing is overwritten; give --name")
    try:
        parameters = data.get("parameters", {})
        data["parameters"] = {**parameters, **(overrides or {})}
        if not saved:
            _check_inside(path, parameters)
        data.setdefault("command", _command(path, name, overrides))
        return Experiment(**{**data, "name": name or data["name"]})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise InputError(
            f"experiment file {str(path)!r}: {key} {first['input']!r} is not allowed: {first['msg']}"
        ) from error
    except (KeyError, TypeError) as error:
        raise InputError(f"experiment file {str(path)!r} lacks or garbles {error}") from error


def _check_inside(path: Path, parameters: dict[str, Any]) -> None:
    for key in ("data_file", "model"):
        value = parameters.get(key)
        if not isinstance(value, str):
            continue
        here = user_path(key, value)
        inside = (REPOSITORY / here).resolve()
        if not inside.is_relative_to(REPOSITORY) or (
            here.exists() and not here.resolve().is_relative_to(REPOSITORY)
        ):
            raise InputError(
                f"experiment file {str(path)!r}: {key} {value!r} is outside the repository; "
                f"give it by --set {key}=… instead"
            )


def _command(path: Path, name: str | None, overrides: dict[str, Any] | None) -> str:
    parts = ["python", "-m", "kvhelpers", "run", str(path)]
    parts += ["--name", name] if name else []
    parts += ["--set", *(f"{key}={value}" for key, value in overrides.items())] if overrides else []
    return shlex.join(parts)


def save_experiment(experiment: Experiment) -> Path:
    """Keep the experiment, overrides applied, beside its results, for the log."""
    path = results_dir(experiment.name) / "experiment.yaml"
    text = yaml.safe_dump(experiment.model_dump(), sort_keys=False, allow_unicode=True)
    return write_atomic(path, lambda temporary: temporary.write_text(text))


def find_experiment(name: str, root: Path | None = None) -> Experiment | None:
    """The experiment whose results lie below ``root`` under this name, or the repository's file of that name,
    or None.
    """
    for path in (results_dir(name, root) / "experiment.yaml", experiment_file(name)):
        if path.is_file():
            return load_experiment(path, saved=True)
    return None


def finished_results(name: str, root: Path | None = None) -> list[ConditionResult]:
    """The experiment's finished conditions below ``root``, in the order of its grid.

    Raises
    ------
    InputError : there is none, or one that cannot be read; a name that is none.
    """
    if not isinstance(name, str) or not re.fullmatch(EXPERIMENT_NAME, name):
        raise InputError(f"experiment {name!r} is not allowed; a name has letters, digits, '.', '_' and '-'")
    results, spec = read_experiment(name, root), find_experiment(name, root)
    if not results:
        raise InputError(
            f"experiment {name!r} has no finished condition in {relative(results_dir(name, root))}; "
            "run it first or name another"
        )
    order = spec.labels() if spec else []
    return sorted(
        results, key=lambda result: order.index(result.label) if result.label in order else len(order)
    )
