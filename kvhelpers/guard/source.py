"""The finished runs of an experiment that a study acts on."""

from __future__ import annotations

from kvhelpers.errors import InputError, unknown_name
from kvhelpers.experiment.condition import Condition
from kvhelpers.experiment.grid import finished_results
from kvhelpers.experiment.results import ConditionResult, find_baseline
from kvhelpers.guard.definition import SourceRuns
from kvhelpers.hazard.events import Event, event_of
from kvhelpers.hazard.features import READS
from kvhelpers.paths import find_results
from kvhelpers.presses.registry import DECODING, PREFILL_DECODING
from kvhelpers.tasks.prompts import PROMPT

DECODES = (DECODING, PREFILL_DECODING)


class Source:
    """The finished runs of an experiment that a study acts on.

    Raises
    ------
    InputError : a condition that is not there, that compresses while decoding, or the context alone, or is
        quantized; no
        uncompressed condition; conditions whose prompts are made otherwise.
    """

    def __init__(self, asked: SourceRuns):
        every = finished_results(asked.experiment, find_results(asked.experiment))
        self.experiment = asked.experiment
        self.every = {result.label: result for result in every}
        for label in asked.conditions:
            if label not in self.every:
                raise unknown_name(f"conditions of {asked.experiment}: condition", label, self.every)
            refuse_decoding(self.every[label])
            refuse_context(self.every[label].condition)
            refuse_quantized(self.every[label].condition)
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


def refuse_context(condition: Condition) -> None:
    """Raise InputError if a condition compresses the context alone: what a guard costs is counted in caches
    of prompt and output together.
    """
    if condition.compress != PROMPT:
        raise InputError(
            f"condition {condition.label()!r} has compress {condition.compress!r}; a guard's memory is not "
            f"counted there; use {PROMPT!r}"
        )


def refuse_quantized(condition: Condition) -> None:
    """Raise InputError if a condition holds its cache in a format of fewer bits."""
    if condition.is_quantized:
        raise InputError(
            f"condition {condition.label()!r} holds its cache in {condition.cache}; no action can be taken "
            "on its runs, since what an action does to a cache is known only of one that is held in full"
        )


def onsets(result: ConditionResult) -> dict[int, int]:
    """The onsets of a condition's failures by prompt index: runs that loop or overrun (`hazard.events`) and
    do not end right.
    """
    ends = result.signals(["prompt_index", "step", "char_end"]).sort_values(["prompt_index", "step"])
    char_ends = {index: part["char_end"].to_numpy() for index, part in ends.groupby("prompt_index")}
    found = {}
    for record in result.records:
        if record.prompt_index in char_ends:
            event, token = event_of(record, char_ends[record.prompt_index])
            if Event(event).is_failure and not record.correct:
                found[record.prompt_index] = token
    return found
