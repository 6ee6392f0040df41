"""What a study of actions, or of a live guard, is asked to do: a YAML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from kvhelpers.errors import InputError, shown, unknown_name
from kvhelpers.experiment.condition import check_name
from kvhelpers.experiment.plain import read_yaml
from kvhelpers.guard.policies import FULL, POLICIES, PRESS
from kvhelpers.paths import user_path

# the contract that a guard has to keep, set before any guard ran
QUALITY_LOSS = 0.02  # of accuracy against the full cache, at most, by the upper end of the interval
SAVED = 0.20  # of the full cache's entries × steps, more than, by the lower end
SLOW_DOWN = 0.10  # of the full cache's time, at most


class Part(BaseModel):
    """A part of a definition: unknown keys and values of a wrong type are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceRuns(Part):
    """Finished runs that are acted on: an experiment and some of its conditions, by label."""

    experiment: str
    conditions: tuple[str, ...] = Field(min_length=1)


class RowsBack(Part):
    """How many evicted positions are brought back in each head, and at which places of failing runs."""

    count: int = Field(ge=1)
    at: tuple[str, ...] = Field(min_length=1)


class ActionsDefinition(Part):
    """What an action can do at all (`experiments/011-what-an-action-can-do.py`).

    ``runs`` is how many failing runs of a condition are acted on, ``others`` how many of those that end wrong
    and of those that end right; ``before_onset`` are tokens before a
    failure's onset, ``shares`` those of a run's tokens; *relax* multiplies the ratio by ``relax``; ``rows``
    are brought back where it is given. ``seed`` draws the tokens at which right runs are acted on.
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
    rows: RowsBack | None = None
    seed: int = Field(default=0, ge=0)
    next_steps: str = ""

    @model_validator(mode="after")
    def _rows_at_places_that_exist(self) -> ActionsDefinition:
        for place in self.rows.at if self.rows else ():
            if place not in self.depths:
                raise ValueError(f"rows.at {place!r} is none of the places {', '.join(self.depths)}")
        return self

    @property
    def depths(self) -> dict[str, int]:
        """The tokens before the onset by the name of the place, the earliest place first."""
        return {before_name(before): before for before in sorted(self.before_onset, reverse=True)}


def before_name(before: int) -> str:
    """``onset``, ``onset − 5``."""
    return f"onset − {before}" if before else "onset"


class LiveDefinition(Part):
    """What a guard is worth (`live`).

    ``policies`` are those of `policies.POLICIES`. Of each condition the first ``n_prompts`` are guarded. The
    hazard model sees ``horizon`` tokens ahead; thresholds are those that a share ``false_alarms`` of the
    right runs of other prompts and presses exceeds, by ``folds`` of the prompts. ``canary_tokens`` are those
    before the canary's decision, ``roll_back`` those taken back, ``fixed_token`` is when a fixed-time policy
    acts, ``relax`` multiplies its ratio. ``permutations`` is how often the hazard's alarms are dealt out
    anew. ``live`` prompts of each condition are guarded while they run, to time that and to compare tokens;
    not under policies that nobody could follow.
    """

    kind: Literal["live"]
    name: str
    objective: str
    sources: tuple[SourceRuns, ...] = Field(min_length=1)
    policies: tuple[str, ...] = Field(min_length=1)
    n_prompts: int = Field(default=50, ge=2)
    horizon: int = Field(default=10, ge=1)
    false_alarms: float = Field(default=0.1, gt=0, lt=1)
    folds: int = Field(default=3, ge=2)
    canary_tokens: int = Field(default=8, ge=1)
    roll_back: int = Field(default=16, ge=1)
    fixed_token: int = Field(default=32, ge=1)
    relax: float = Field(default=0.5, gt=0, lt=1)
    permutations: int = Field(default=10, ge=1)
    live: int = Field(default=4, ge=0)
    seed: int = Field(default=0, ge=0)
    next_steps: str = ""

    @field_validator("policies")
    @classmethod
    def _with_what_all_stand_beside(cls, policies: tuple[str, ...]) -> tuple[str, ...]:
        if missing := {FULL, PRESS} - set(policies):
            raise ValueError(f"it needs {' and '.join(sorted(missing))}, beside which the others stand")
        return policies


DEFINITIONS = {"actions": ActionsDefinition, "live": LiveDefinition}
Definition = ActionsDefinition | LiveDefinition


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
        key, reason = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        what = f"{key} {shown(first['input'])} is not allowed: " if key else ""
        raise InputError(f"{file}: {what}{reason}") from error
    check_name(definition.name)
    for policy in getattr(definition, "policies", ()):
        if policy not in POLICIES:
            raise unknown_name("policy", policy, POLICIES)
    return definition


def asked_sources(definition: Definition, only: Sequence[str]) -> list[SourceRuns]:
    """A study's sources, or those of these experiments only. Raises InputError if there is none."""
    asked = [part for part in definition.sources if not only or part.experiment in only]
    if not asked:
        names = ", ".join(part.experiment for part in definition.sources)
        raise InputError(f"only {list(only)} names no source of this study; it has {names}")
    return asked
