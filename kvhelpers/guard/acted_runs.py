"""Which finished runs are acted on, and where.

failing   runs that loop or overrun (`hazard.events`) and do not end right: at the failure's onset and some
          tokens before it
wrong     other runs that end with a wrong answer while the uncompressed run of the prompt is right: at shares
          of their tokens
right     runs that end right, at the tokens at which failing runs of all the conditions are acted on (drawn),
          or at shares of their own tokens where none fails early enough
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from kvhelpers.experiment.results import ConditionResult
from kvhelpers.guard.definition import ActionsDefinition, Source
from kvhelpers.hazard.events import Event, event_of
from kvhelpers.records import Record


class Group(StrEnum):
    """What became of a run before it was acted on."""

    FAILING = "failing"
    WRONG = "wrong"
    RIGHT = "right"


START = "start"


@dataclass(frozen=True)
class Place:
    """A run to act on: its group, and by the name of the place the tokens that are there then."""

    label: str
    prompt_index: int
    group: Group
    onset: int | None
    keep: dict[str, int]


def places(source: Source, definition: ActionsDefinition) -> list[Place]:
    """The runs of a source that are acted on: of each condition ``definition.runs`` that fail after their
    first token, as many that fail at it, and ``definition.others`` of the other groups, in the order of their
    prompts.
    """
    failures = {label: onsets(result) for label, result in source.conditions.items()}
    failing = [
        place
        for label, result in source.conditions.items()
        for place in _failing(result, failures[label], definition)
    ]
    tokens = [keep for place in failing for name, keep in place.keep.items() if name != START]
    others = [
        place
        for label, result in source.conditions.items()
        for place in (
            *_wrong(source, result, failures[label], definition),
            *_right(result, definition, tokens),
        )
    ]
    return failing + others


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


def _failing(
    result: ConditionResult, failures: dict[int, int], definition: ActionsDefinition
) -> Iterator[Place]:
    """Failures that begin at token 0 can only be acted on at the start; they do not count against those that
    can be.
    """
    late = [index for index in sorted(failures) if failures[index] >= 1][: definition.runs]
    at_once = [index for index in sorted(failures) if failures[index] < 1][: definition.runs]
    for index in sorted(late + at_once):
        onset = failures[index]
        keep = {name: onset - before for name, before in definition.depths.items()}
        keep = {name: token for name, token in keep.items() if token >= 1}
        yield Place(result.label, index, Group.FAILING, onset, {START: 0} | keep)


def _wrong(
    source: Source, result: ConditionResult, failures: dict[int, int], definition: ActionsDefinition
) -> Iterator[Place]:
    right = {record.prompt_index for record in source.baseline.records if record.correct}
    wrong = [
        record
        for record in result.records
        if record.stop_reason.ended
        and not record.correct
        and record.prompt_index in right
        and record.prompt_index not in failures
    ]
    yield from (_at_shares(result, record, Group.WRONG, definition) for record in wrong[: definition.others])


def _right(result: ConditionResult, definition: ActionsDefinition, tokens: Sequence[int]) -> Iterator[Place]:
    for record in [record for record in result.records if record.correct][: definition.others]:
        fitting = [token for token in tokens if token < record.n_tokens]
        if not fitting:
            yield _at_shares(result, record, Group.RIGHT, definition)
            continue
        draw = np.random.default_rng([definition.seed, record.prompt_index])
        matched = {"matched": int(draw.choice(fitting))}
        yield Place(result.label, record.prompt_index, Group.RIGHT, None, {START: 0} | matched)


def _at_shares(result: ConditionResult, record: Record, group: Group, definition: ActionsDefinition) -> Place:
    keep = {share_name(share): max(1, int(share * record.n_tokens)) for share in definition.shares}
    return Place(result.label, record.prompt_index, group, None, {START: 0} | keep)


def share_name(share: float) -> str:
    """``25 % of the run``."""
    return f"{share:.0%} of the run".replace("%", " %")
