"""What a study of actions, or of a live guard, is asked to do: a YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kvhelpers.errors import InputError, shown, unknown_name
from kvhelpers.experiment.condition import check_name
from kvhelpers.experiment.grid import finished_results
from kvhelpers.experiment.plain import read_yaml
from kvhelpers.experiment.results import ConditionResult, find_baseline
from kvhelpers.paths import find_results, user_path
from kvhelpers.presses.registry import DECODING, PREFILL_DECODING

DECODES = (DECODING, PREFILL_DECODING)


class Part(BaseModel):
    """A part of a definition: unknown keys and values of a wrong type are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceRuns(Part):
    """Finished runs that are acted on: an experiment and some of its conditions, by label."""

    experiment: str
    conditions: tuple[str, ...] = Field(min_length=1)


class ActionsDefinition(Part):
    """What an action can do at all (`what_an_action_can_do`).

    ``runs`` is how many failing runs of a condition are acted on, ``others`` how many of those that end wrong
    and of those that end right (`acted_runs.places`); ``before_onset`` are tokens before a
    failure's onset, ``shares`` those of a run's tokens; *relax* multiplies the ratio by ``relax``. ``seed``
    draws the tokens at which right runs are acted on.
    """

    kind: Literal["actions"]
    name: str
    objective: str
    sources: tuple[SourceRuns, ...] = Field(min_length=1)
    runs: int = Field(default=20, ge=1)
    others: int = Field(default=10, ge=1)
    before_onset: tuple[int, ...] = (0, 5, 10, 16)
    shares: tuple[float, ...] = (0.25, 0.5, 0.75)
    relax: float = Field(default=0.5, gt=0, lt=1)
    seed: int = Field(default=0, ge=0)
    next_steps: str = ""


DEFINITIONS = {"actions": ActionsDefinition}
Definition = ActionsDefinition


def load_definition(path: Path, name: str | None = None, overrides: dict[str, Any] | None = None):
    """Read a definition, with values overridden.

    Raises
    ------
    InputError : an unreadable or malformed file, an unknown key or kind, a value that is not allowed.
    """
    file = f"experiment file {shown(str(path))}"
    try:
        data = read_yaml(user_path("experiment file", str(path)).read_text(encoding="utf-8"), file)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
    if not isinstance(data, dict):
        raise InputError(f"{file} holds no mapping; it needs {', '.join(ActionsDefinition.model_fields)}")
    if data.get("kind") not in DEFINITIONS:
        raise unknown_name(f"{file}: kind", data.get("kind"), DEFINITIONS)
    made = DEFINITIONS[data["kind"]]
    data |= (overrides or {}) | ({"name": name} if name else {})
    for key in data:
        if key not in made.model_fields:
            raise unknown_name(f"{file}: key", key, made.model_fields)
    try:
        definition = made(**data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise InputError(f"{file}: {key} {shown(first['input'])} is not allowed: {first['msg']}") from error
    check_name(definition.name)
    return definition


class Source:
    """The finished runs of an experiment that a study acts on.

    Raises
    ------
    InputError : a condition that is not there or that compresses while decoding; no uncompressed condition.
    """

    def __init__(self, asked: SourceRuns):
        every = finished_results(asked.experiment, find_results(asked.experiment))
        self.experiment = asked.experiment
        self.every = {result.label: result for result in every}
        for label in asked.conditions:
            if label not in self.every:
                raise unknown_name(f"conditions of {asked.experiment}: condition", label, self.every)
            refuse_decoding(self.every[label])
        self.conditions = {label: self.every[label] for label in asked.conditions}
        first = self.every[asked.conditions[0]]
        baseline = find_baseline(every, first)
        if baseline is None:
            raise InputError(
                f"experiment {asked.experiment!r} has no uncompressed condition to set actions beside"
            )
        self.baseline = baseline

    def tokens(self, label: str) -> dict[int, list[int]]:
        """The token ids of a condition's runs, by prompt index."""
        result = self.every[label]
        table = result.signals(["prompt_index", "step", "token_id"]).sort_values(["prompt_index", "step"])
        ids = {index: part["token_id"].tolist() for index, part in table.groupby("prompt_index")}
        return {record.prompt_index: ids.get(record.prompt_index, []) for record in result.records}


def refuse_decoding(result: ConditionResult) -> None:
    """Raise InputError if a condition's press compresses while decoding: its caches follow from all cuts so
    far, and no new prefill gives them.
    """
    if result.condition.press in DECODES:
        raise InputError(
            f"condition {result.label!r} compresses while decoding; no action can be taken on its runs, "
            "since their caches follow from all cuts so far and not from a new prefill"
        )
