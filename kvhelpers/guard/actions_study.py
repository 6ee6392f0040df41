"""What an action can do, as data: finished runs after each action, and what became of them.

restore   go on from there with the full cache
relax     go on from there under the same press with a milder ratio
again     go on from there under the same press and ratio, applied anew to prompt and output: what the new
          prefill does by itself, and what any change does to runs that were chosen because they fail
no rows, wanted rows, another's rows, random rows, oldest rows
          go on under the press applied to the prompt alone, with so many evicted positions brought back:
          none, those that the last queries want, those that another prompt's would, random ones, the oldest

Acting at the start is a run of its own: restored, it is the uncompressed run; again, the run itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path

import numpy as np

from kvhelpers.guard.acted_runs import START, Group
from kvhelpers.guard.definition import ActionsDefinition, before_name
from kvhelpers.guard.storage import read_study, write_study
from kvhelpers.hazard.provenance import StudyProvenance
from kvhelpers.records import Shape
from kvhelpers.stats import (
    SIGNIFICANCE,
    Estimate,
    SignTest,
    adjusted,
    estimate,
    fewest_discordant,
    mean,
    proportion,
    sign_test,
)


class ActionName(StrEnum):
    """What is done to a run."""

    RESTORE = "restore"
    RELAX = "relax"
    AGAIN = "again"
    NO_ROWS = "no rows"
    WANTED_ROWS = "wanted rows"
    OTHER_ROWS = "another's rows"
    RANDOM_ROWS = "random rows"
    OLDEST_ROWS = "oldest rows"


WHOLE = (ActionName.RESTORE, ActionName.RELAX, ActionName.AGAIN)  # what is done to a whole cache
ROWS = tuple(name for name in ActionName if name not in WHOLE)


Side = tuple[str, ActionName]  # a place and what is done there


class ActedRun(Shape):
    """A run after an action.

    ``keep`` tokens stood when it was acted on at ``place``, ``before`` is how many it had by itself.
    ``known`` runs were not generated anew: the uncompressed run, and the run itself. ``text`` is empty for
    them. ``thinking_chars`` are as in `records.Record`.
    """

    experiment: str
    condition: str
    press: str
    prompt_index: int
    prompt_id: str
    group: Group
    onset: int | None
    place: str
    keep: int
    before: int
    action: ActionName
    known: bool
    correct: bool
    ended: bool
    looping: bool
    error: str | None
    tokens: int
    token_ids: tuple[int, ...] = ()
    text: str = ""
    thinking_chars: int = 0
    kept_tokens: float | None
    held_tokens: int
    wall_seconds: float

    @property
    def prompt(self) -> str:
        """What its prompt is called among the sources."""
        return f"{self.experiment}/{self.prompt_id}"


class ActedSource(Shape):
    """An experiment whose runs were acted on."""

    experiment: str
    model: str
    task: str
    dtype: str
    conditions: tuple[str, ...]
    max_new_tokens: int


class ActionsStudy(Shape):
    """All runs that were acted on, and where they come from."""

    provenance: StudyProvenance
    definition: ActionsDefinition
    sources: tuple[ActedSource, ...]
    runs: tuple[ActedRun, ...]

    def save(self, path: Path) -> Path:
        """Write the study."""
        return write_study(self, path)


def read_actions_study(path: Path) -> ActionsStudy:
    """Read a study written by `ActionsStudy.save`. Raises InputError if the file is none, or was changed."""
    return read_study(path, ActionsStudy, "actions")


class Finding(StrEnum):
    """What the second of two ways to act does to the share of right runs."""

    HELPS = "helps"
    HARMS = "harms"
    NO_EVIDENCE = "no evidence"
    TOO_FEW = "too few"


class Outcome(Shape):
    """What became of the runs of a group that were acted on at a place: the share that end right, with its
    interval over prompts, and shares of those that loop and that end.
    """

    experiment: str
    group: Group
    place: str
    action: ActionName
    right: Estimate
    looping: Estimate
    ended: Estimate
    tokens: float


def outcomes(study: ActionsStudy) -> list[Outcome]:
    """All groups, places and actions of all sources, places before the onset by their depth."""
    runs = _by_depth(study)
    keys = dict.fromkeys(map(_key, runs))
    return [_outcome(key, [run for run in runs if _key(run) == key]) for key in keys]


def _by_depth(study: ActionsStudy) -> list[ActedRun]:
    """The runs with those acted on earlier before the onset first: not every run has all of the places."""
    order = {place: number for number, place in enumerate((START, *study.definition.depths))}
    return sorted(study.runs, key=lambda run: order.get(run.place, len(order)))


def _key(run: ActedRun) -> tuple:
    return run.experiment, run.group, run.place, run.action


def _outcome(key: tuple, runs: Sequence[ActedRun]) -> Outcome:
    prompts = [run.prompt for run in runs]
    experiment, group, place, action = key
    return Outcome(
        experiment=experiment,
        group=group,
        place=place,
        action=action,
        right=proportion([run.correct for run in runs], prompts),
        looping=proportion([run.looping for run in runs], prompts),
        ended=proportion([run.ended for run in runs], prompts),
        tokens=sum(run.tokens for run in runs) / len(runs),
    )


class Contrast(Shape):
    """Two ways to act on the same runs: ``first`` and ``second`` are (place, action), differences are second
    minus first, on their ``n`` common runs. ``only_first`` and ``only_second`` count runs that are right on
    one side alone. ``difference`` has its interval over prompts; ``test`` is that of prompts
    (`stats.sign_test`), ``q`` its p adjusted for all contrasts of the source.
    """

    experiment: str
    group: Group
    first: Side
    second: Side
    n: int
    only_first: int
    only_second: int
    difference: Estimate
    test: SignTest
    q: float

    @property
    def finding(self) -> Finding:
        """What the second does to the share of right runs; none where runs and prompts disagree."""
        low, high = self.difference.low, self.difference.high
        if low is None or self.difference.prompts < fewest_discordant():
            return Finding.TOO_FEW
        better = self.test.better - self.test.worse
        if self.q < SIGNIFICANCE and low > 0 and better > 0:
            return Finding.HELPS
        if self.q < SIGNIFICANCE and high < 0 and better < 0:
            return Finding.HARMS
        return Finding.NO_EVIDENCE


def contrasts(study: ActionsStudy) -> list[Contrast]:
    """What the log's sentences rest on: at each place restoring and relaxing against the same press anew,
    restoring against restoring at the start and, before the onset, against restoring at it, and the wanted
    rows against none and against others. What follows from how the runs were chosen is not tested: what they
    do by themselves, and that runs that need not end wrong are right at the start.
    """
    runs = _by_depth(study)
    return [contrast for source in study.sources for contrast in _of_source(source.experiment, runs)]


def _of_source(experiment: str, every: Sequence[ActedRun]) -> list[Contrast]:
    pairs = [
        pair
        for group in Group
        for runs in [[run for run in every if (run.experiment, run.group) == (experiment, group)]]
        for first, second in _sides(group, runs)
        if (pair := _paired(runs, first, second)) is not None
    ]
    q_values = adjusted([pair.test.p for pair in pairs])
    return [pair.model_copy(update={"q": q}) for pair, q in zip(pairs, q_values, strict=True)]


def _sides(group: Group, runs: Sequence[ActedRun]) -> Iterator[tuple[Side, Side]]:
    onset = before_name(0)
    for place in dict.fromkeys(run.place for run in runs):
        if place == START:
            continue
        yield (place, ActionName.AGAIN), (place, ActionName.RESTORE)
        yield (place, ActionName.AGAIN), (place, ActionName.RELAX)
        if group != Group.WRONG:
            yield (START, ActionName.RESTORE), (place, ActionName.RESTORE)
        if group == Group.FAILING and place != onset:
            yield (onset, ActionName.RESTORE), (place, ActionName.RESTORE)
        for other in ROWS:
            if other != ActionName.WANTED_ROWS:
                yield (place, other), (place, ActionName.WANTED_ROWS)


def _paired(runs: Sequence[ActedRun], first: Side, second: Side) -> Contrast | None:
    """Two sides on their common runs of a group, ``q`` not yet adjusted; None without a common run."""
    right = {
        side: {(run.prompt, run.condition): run.correct for run in runs if (run.place, run.action) == side}
        for side in (first, second)
    }
    common = [run for run in right[first] if run in right[second]]
    if not common:
        return None
    changes = [int(right[second][run]) - int(right[first][run]) for run in common]
    prompts = [prompt for prompt, _ in common]
    test = sign_test(changes, prompts)
    return Contrast(
        experiment=runs[0].experiment,
        group=runs[0].group,
        first=first,
        second=second,
        n=len(common),
        only_first=changes.count(-1),
        only_second=changes.count(1),
        difference=estimate(mean(np.array(changes)), prompts),
        test=test,
        q=test.p,
    )
