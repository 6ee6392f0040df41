"""Experiments as data: a YAML file names objective, model, task, sizes and a grid of presses."""

from __future__ import annotations

import itertools
import shlex
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kvhelpers.errors import InputError, check_text, shown, unknown_name
from kvhelpers.experiment.condition import (
    GRID_KEYS,
    Condition,
    build_condition,
    check_name,
    make_condition,
)
from kvhelpers.experiment.plain import read_yaml
from kvhelpers.experiment.results import ConditionResult, read_experiment
from kvhelpers.paths import (
    REPOSITORY,
    definition_path,
    experiment_file,
    relative,
    results_dir,
    user_path,
    write_atomic,
)


class Contrast(BaseModel):
    """Two conditions of an experiment, by label, that its log compares under the words of ``about``; not
    ``planned`` if the comparison was thought of after the runs were seen.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    about: str
    first: str
    second: str
    planned: bool = True


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
        """The conditions' labels, in the grid's order; reads no data.

        Raises InputError for a parameter of a wrong type or out of range.
        """
        return [
            build_condition({**self.parameters, **entry, "experiment": self.name}).label()
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
        for label in (label for pair in self.contrasts for label in (pair.first, pair.second)):
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
    InputError : unreadable or malformed file, unknown key, a path that leaves the repository, a name that
        cannot be one, overrides without a new name.
    """
    file = f"experiment file {shown(str(path))}"
    data = _read_mapping(path, file)
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
        if "experiment" in parameters:
            raise InputError(
                f"{file}: parameters.experiment {shown(parameters['experiment'])} has no effect; "
                "the experiment is named by the key 'name', or by --name"
            )
        if not saved:
            _check_inside(file, parameters)
        data.setdefault("command", _command(path, name, overrides))
        check_text("name", data["name"])
        experiment = Experiment(**{**data, "name": data["name"] if name is None else name})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise InputError(f"{file}: {key} {shown(first['input'])} is not allowed: {first['msg']}") from error
    except (KeyError, TypeError) as error:
        raise InputError(f"{file} lacks or garbles {error}") from error
    check_name(experiment.name)
    return experiment


def _read_mapping(path: Path, file: str) -> dict[str, Any]:
    """The mapping in an experiment file, with known keys only; ``file`` is what a message calls it."""
    try:
        data = read_yaml(user_path("experiment file", str(path)).read_text(encoding="utf-8"), file)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is no YAML: {error}") from error
    if not isinstance(data, dict):
        raise InputError(f"{file} holds no mapping; it needs {', '.join(Experiment.model_fields)}")
    for key in data:
        if key not in Experiment.model_fields:
            raise unknown_name(f"{file}: key", key, Experiment.model_fields)
    return data


def _check_inside(file: str, parameters: dict[str, Any]) -> None:
    for key in ("data_file", "model"):
        value = parameters.get(key)
        if not isinstance(value, str):
            continue
        here = user_path(key, value)
        try:
            outside_from_here = here.exists() and not here.resolve().is_relative_to(REPOSITORY)
        except OSError as error:
            raise InputError(f"{file}: {key} {shown(value)} cannot be read: {error.strerror}") from error
        if outside_from_here or not (REPOSITORY / here).resolve().is_relative_to(REPOSITORY):
            raise InputError(
                f"{file}: {key} {shown(value)} is outside the repository; give it by --set {key}=… instead"
            )


def _command(path: Path, name: str | None, overrides: dict[str, Any] | None) -> str:
    parts = ["python", "-m", "kvhelpers", "run", str(path)]
    parts += ["--name", name] if name else []
    parts += ["--set", *(f"{key}={_as_yaml(value)}" for key, value in overrides.items())] if overrides else []
    return shlex.join(parts)


def _as_yaml(value: Any) -> str:
    """A value as ``--set`` takes it."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")


def save_experiment(experiment: Experiment) -> Path:
    """Keep the experiment, overrides applied, beside its results, for the log."""
    path = definition_path(experiment.name)
    text = yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def find_experiment(name: str, root: Path | None = None) -> Experiment | None:
    """The experiment whose results lie below ``root`` under this name, or the repository's file of that name,
    or None.

    Raises
    ------
    InputError : the file is none, or its conditions cannot be built; the sentence names it.
    """
    for path in (definition_path(name, root), experiment_file(name)):
        if path.is_file():
            experiment = load_experiment(path, saved=True)
            try:
                experiment.labels()
            except InputError as error:
                raise InputError(f"experiment file {shown(str(path))}: {error}") from error
            return experiment
    return None


def finished_results(name: str, root: Path | None = None, previous: bool = False) -> list[ConditionResult]:
    """The experiment's finished conditions below ``root``, in the order of its grid; ``previous`` as in
    `results.read_result`.

    Raises
    ------
    InputError : there is none, or one that cannot be read; a name that is none.
    """
    check_name(name)
    results, spec = read_experiment(name, root, previous), find_experiment(name, root)
    if not results:
        raise InputError(
            f"experiment {name!r} has no finished condition in {relative(results_dir(name, root))}; "
            "run it first or name another"
        )
    order = spec.labels() if spec else []
    return sorted(
        results, key=lambda result: order.index(result.label) if result.label in order else len(order)
    )
