"""What a study of actions, or of a live guard, is asked to do: a YAML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from kvhelpers.errors import InputError, shown, unknown_name
from kvhelpers.experiment.condition import check_name
from kvhelpers.experiment.grid import finished_results
from kvhelpers.experiment.plain import read_yaml
from kvhelpers.experiment.results import ConditionResult, find_baseline
from kvhelpers.hazard.features import READS
from kvhelpers.paths import find_results, user_path
from kvhelpers.presses.registry import DECODING, PREFILL_DECODING

POLICIES = {
    "none": "the full cache",
    "press": "the press alone",
    "stop": "the press; a run that repeats itself is stopped",
    "repetition_restart": "the press; a run that repeats itself begins again with the full cache",
    "prune": "the press; a run that repeats itself loses the repeated tail, and goes on under the press anew",
    "force_answer": "the press; a run that repeats itself is made to answer, under the press anew",
    "hazard_restore": "the press; when the hazard exceeds its threshold, the full cache is restored",
    "hazard_roll_back": "the same, after some tokens are taken back",
    "hazard_of_other_model": "as hazard_roll_back, with a hazard model of the other sources' runs",
    "permuted": "as hazard_roll_back, with the alarms dealt out anew among the condition's runs",
    "canary_commit": "both caches for the first tokens; then once: go on with the full one or the press's",
    "fixed_relax": "the press; at a fixed token a milder ratio",
    "router": "the press, or the full cache where the press loses too much on other prompts",
    "oracle": "the press; runs that end right only with the full cache begin with it",
    "oracle_alarm": "as hazard_roll_back, at the true onset of each failure",
}
FULL, PRESS, PERMUTED = "none", "press", "permuted"
UNTIMED = (PERMUTED, "oracle", "oracle_alarm")  # what nobody could follow
# the contract that a guard has to keep, set before any guard ran
QUALITY_LOSS = 0.02  # of accuracy against the full cache, at most, by the upper end of the interval
SAVED = 0.20  # of the full cache's entries × steps, more than, by the lower end
SLOW_DOWN = 0.10  # of the full cache's time, at most
DECODES = (DECODING, PREFILL_DECODING)


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
    """What an action can do at all (`what_an_action_can_do`).

    ``runs`` is how many failing runs of a condition are acted on, ``others`` how many of those that end wrong
    and of those that end right (`acted_runs.places`); ``before_onset`` are tokens before a
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

    ``policies`` are those of `POLICIES`. Of each condition the first ``n_prompts`` are guarded. The hazard
    model sees ``horizon`` tokens ahead; thresholds are those that a share ``false_alarms`` of the right runs
    of other prompts and presses exceeds, by ``folds`` of the prompts. ``canary_tokens`` are those before the
    canary's decision, ``roll_back`` those taken back, ``fixed_token`` is when a fixed-time policy acts,
    ``relax`` multiplies its ratio. ``permutations`` is how often the hazard's alarms are dealt out anew.
    ``live`` prompts of each condition are guarded while they run, to time that and to compare tokens; not
    under the policies of `UNTIMED`.
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


class Source:
    """The finished runs of an experiment that a study acts on.

    Raises
    ------
    InputError : a condition that is not there or that compresses while decoding; no uncompressed condition;
        conditions whose prompts are made otherwise.
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
        for label, result in self.conditions.items():
            if result.condition.setting != first.condition.setting:
                raise InputError(
                    f"conditions {first.label!r} and {label!r} of {asked.experiment} make their prompts "
                    "otherwise; name them in different studies"
                )
        baseline = find_baseline(every, first)
        if baseline is None:
            raise InputError(
                f"experiment {asked.experiment!r} has no uncompressed condition to set actions beside"
            )
        self.baseline = baseline
        self._tokens: dict[str, dict[int, list[int]]] = {}

    def signals(self, label: str) -> dict[int, list[dict[str, float]]]:
        """Each token's signals by name, of a condition's runs, by prompt index."""
        result = self.every[label]
        table = result.signals(["prompt_index", "step", *READS]).sort_values(["prompt_index", "step"])
        return {index: part[list(READS)].to_dict("records") for index, part in table.groupby("prompt_index")}

    def tokens(self, label: str) -> dict[int, list[int]]:
        """The token ids of a condition's runs, by prompt index."""
        if label not in self._tokens:
            result = self.every[label]
            table = result.signals(["prompt_index", "step", "token_id"])
            by_prompt = table.sort_values(["prompt_index", "step"]).groupby("prompt_index")
            ids = {index: part["token_id"].tolist() for index, part in by_prompt}
            self._tokens[label] = {
                record.prompt_index: ids.get(record.prompt_index, []) for record in result.records
            }
        return self._tokens[label]


def refuse_decoding(result: ConditionResult) -> None:
    """Raise InputError if a condition's press compresses while decoding: its caches follow from all cuts so
    far, and no new prefill gives them.
    """
    if result.condition.press in DECODES:
        raise InputError(
            f"condition {result.label!r} compresses while decoding; no action can be taken on its runs, "
            "since their caches follow from all cuts so far and not from a new prefill"
        )
