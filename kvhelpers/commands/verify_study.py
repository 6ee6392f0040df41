"""Check a study of actions or of a guard against the runs that it acted on, without running a model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kvhelpers.experiment.run import judged
from kvhelpers.guard.acted_runs import START
from kvhelpers.guard.actions_study import ActedRun, ActionName, ActionsStudy
from kvhelpers.guard.definition import FULL, PRESS, Source, SourceRuns
from kvhelpers.guard.live_study import GuardedRun, LiveStudy
from kvhelpers.paths import guard_path, relative
from kvhelpers.records import Record, StopReason
from kvhelpers.report.guard_log import read_guard_study
from kvhelpers.scoring.score import Ended


def study_faults(name: str, root: Path | None = None) -> tuple[int, list[str]]:
    """How many runs a study holds, and what does not hold: sentences.

    Raises
    ------
    InputError : the file is no study, or was changed; its sources are not here.
    """
    path = guard_path(name, root)
    study = read_guard_study(path)
    sources = {
        source.experiment: Source(SourceRuns(experiment=source.experiment, conditions=source.conditions))
        for source in study.sources
    }
    check = _of_actions if isinstance(study, ActionsStudy) else _of_guard
    return len(study.runs), [f"{relative(path)}: {fault}" for fault in check(study, sources)]


def _of_actions(study: ActionsStudy, sources: dict[str, Source]) -> Iterator[str]:
    for run in study.runs:
        source = sources[run.experiment]
        record = source.every[run.condition].records[run.prompt_index]
        named = f"{run.action} at {run.place} of {run.condition}, prompt {run.prompt_id}"
        if (run.prompt_id, run.before) != (record.prompt_id, record.n_tokens):
            yield f"{named}: it is not the run that was acted on"
        if run.known:
            yield from _known(named, run, source, record)
        elif run.tokens != run.keep + len(run.token_ids):
            yield f"{named}: {run.tokens} tokens are not {run.keep} and {len(run.token_ids)}"
        elif run.correct != _is_right(run, source, record):
            yield f"{named}: today's rules do not say that it is {'right' if run.correct else 'not right'}"


def _known(named: str, run: ActedRun, source: Source, record: Record) -> Iterator[str]:
    same = source.baseline.records[run.prompt_index] if run.action == ActionName.RESTORE else record
    if run.place != START or (run.correct, run.tokens) != (same.correct, same.n_tokens):
        yield f"{named}: it is not the finished run that it is said to be"


def _is_right(run: ActedRun, source: Source, record: Record) -> bool:
    condition = source.every[run.condition].condition
    reason = StopReason.EOS if run.ended else StopReason.MAX_NEW_TOKENS
    ids = [*source.tokens(run.condition)[run.prompt_index][: run.keep], *run.token_ids]
    ended = Ended(run.text, ids, [len(run.text)] * len(ids), reason, run.thinking_chars)
    return run.error is None and judged(condition, run.prompt_id, record.reference, ended).correct


def _of_guard(study: LiveStudy, sources: dict[str, Source]) -> Iterator[str]:
    for run in study.runs:
        source = sources[run.experiment]
        alone = source.every[run.condition].records[run.prompt_index]
        full = source.baseline.records[run.prompt_index]
        named = f"{run.policy} on {run.condition}, prompt {run.prompt_id}"
        if run.prompt_id != alone.prompt_id:
            yield f"{named}: it is not the prompt of the run, {alone.prompt_id}"
        same = _finished(run, alone, full)
        if same is not None and (run.correct, run.tokens) != (same.correct, same.n_tokens):
            yield f"{named}: it is not the finished run that it is said to be"
    for check in study.checks:
        if check.same != check.n:
            yield f"{check.policy} on {check.condition}: {check.n - check.same} of {check.n} live runs differ"


def _finished(run: GuardedRun, alone: Record, full: Record) -> Record | None:
    """The finished run that a guarded one is, if it is one."""
    if run.policy == FULL:
        return full
    if run.policy == PRESS or run.alarm is None:
        return alone
    return None
