"""Act on finished runs where only an oracle would: what an action can do at all, before any predictor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from kvhelpers.guard.acted_runs import START, Group, Place, places
from kvhelpers.guard.actions_study import ActedRun, ActedSource, ActionName, ActionsStudy
from kvhelpers.guard.continuations import Continuation, Point, Rows, continue_runs, key_of
from kvhelpers.guard.definition import ActionsDefinition, Source, SourceRuns, asked_sources
from kvhelpers.hazard.provenance import study_provenance
from kvhelpers.presses.restore_rows import OLDEST, OTHER, RANDOM, WANTED
from kvhelpers.records import Record


def make_actions_study(
    definition: ActionsDefinition, folder: Path, command: str | None, only: Sequence[str] = ()
) -> ActionsStudy:
    """Act on the runs of the definition's sources, or of these only; what is in ``folder`` is not generated
    again.
    """
    asked = asked_sources(definition, only)
    provenance = study_provenance(command)
    sources, runs = [], []
    for part in asked:
        source = Source(part)
        sources.append(_described(part, source))
        runs += act_on(source, definition, folder)
    return ActionsStudy(
        provenance=provenance, definition=definition, sources=tuple(sources), runs=tuple(runs)
    )


def _described(part: SourceRuns, source: Source) -> ActedSource:
    condition = source.baseline.condition
    return ActedSource(
        experiment=part.experiment,
        model=condition.model,
        task=condition.task,
        dtype=source.baseline.identity["dtype"],
        conditions=part.conditions,
        max_new_tokens=condition.max_new_tokens,
    )


class _Wanted(NamedTuple):
    place: Place
    name: str
    action: ActionName
    point: Point | None  # None: known


def act_on(source: Source, definition: ActionsDefinition, folder: Path) -> list[ActedRun]:
    """The runs of a source after each action at each place."""
    wanted = list(_wanted(source, definition))
    points = [one.point for one in wanted if one.point is not None]
    done = continue_runs(source, points, folder)
    return [
        _known(source, one) if one.point is None else _acted(source, one, done[key_of(one.point)])
        for one in wanted
    ]


def _wanted(source: Source, definition: ActionsDefinition) -> Iterator[_Wanted]:
    for place in places(source, definition):
        condition = source.conditions[place.label].condition
        for name, keep in place.keep.items():
            run = {"condition": place.label, "prompt_index": place.prompt_index, "keep": keep}
            same = {"press": condition.press, "press_kwargs": condition.press_kwargs}
            milder = round(definition.relax * condition.ratio, 6)
            points = {
                ActionName.RESTORE: Point(**run),
                ActionName.RELAX: Point(**run, **same, ratio=milder),
                ActionName.AGAIN: Point(**run, **same, ratio=condition.ratio),
            }
            for action, point in points.items():
                known = name == START and action != ActionName.RELAX
                yield _Wanted(place, name, action, None if known else point)
            if definition.rows and place.group == Group.FAILING and name in definition.rows.at:
                anew = points[ActionName.AGAIN]
                for action, rows in _rows(source, place, definition.rows.count).items():
                    yield _Wanted(place, name, action, anew.model_copy(update={"rows": rows}))


def _rows(source: Source, place: Place, count: int) -> dict[ActionName, Rows]:
    other = (place.prompt_index + 1) % len(source.baseline.records)
    return {
        ActionName.NO_ROWS: Rows(count=0, choose=WANTED),
        ActionName.WANTED_ROWS: Rows(count=count, choose=WANTED),
        ActionName.OTHER_ROWS: Rows(count=count, choose=OTHER, other=other),
        ActionName.RANDOM_ROWS: Rows(count=count, choose=RANDOM),
        ActionName.OLDEST_ROWS: Rows(count=count, choose=OLDEST),
    }


def _common(source: Source, wanted: _Wanted) -> dict:
    place = wanted.place
    result = source.conditions[place.label]
    record = result.records[place.prompt_index]
    return {
        "experiment": source.experiment,
        "condition": place.label,
        "press": result.condition.press,
        "prompt_index": place.prompt_index,
        "prompt_id": record.prompt_id,
        "group": place.group,
        "onset": place.onset,
        "place": wanted.name,
        "keep": place.keep[wanted.name],
        "before": record.n_tokens,
        "action": wanted.action,
    }


def _known(source: Source, wanted: _Wanted) -> ActedRun:
    result = source.baseline
    if wanted.action == ActionName.AGAIN:
        result = source.conditions[wanted.place.label]
    record: Record = result.records[wanted.place.prompt_index]
    return ActedRun(
        **_common(source, wanted),
        known=True,
        correct=record.correct,
        ended=record.stop_reason.ended,
        looping=record.failures.looping,
        error=record.error,
        tokens=record.n_tokens,
        kept_tokens=record.cache.kept_tokens if record.cache else None,
        held_tokens=record.prompt_tokens,
        wall_seconds=0.0,
    )


def _acted(source: Source, wanted: _Wanted, continuation: Continuation) -> ActedRun:
    return ActedRun(
        **_common(source, wanted),
        known=False,
        ended=continuation.stop_reason.ended,
        **continuation.model_dump(exclude={"point", "stop_reason"}),
    )
