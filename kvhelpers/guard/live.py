"""What a guard is worth: each policy on each run, what it makes of the run and what that costs.

Up to its alarm a guarded run is the finished run; what follows an action is generated (`continuations`), or
is the uncompressed run where nothing was kept. Some prompts are guarded while they run, so that both are
compared token by token and timed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from kvhelpers.experiment.condition import Condition
from kvhelpers.experiment.run import load_for
from kvhelpers.guard.acted_runs import onsets
from kvhelpers.guard.alarms import AtToken
from kvhelpers.guard.canary_values import canary_values, has_canary
from kvhelpers.guard.continuations import Continuation, Point, continue_runs, key_of
from kvhelpers.guard.definition import PERMUTED, UNTIMED, LiveDefinition, Source, SourceRuns, asked_sources
from kvhelpers.guard.ledger import Cost, Stretch, cost
from kvhelpers.guard.live_check import check_live
from kvhelpers.guard.live_study import CurvePoint, GuardedRun, LiveCheck, LiveSource, LiveStudy
from kvhelpers.guard.policies import NEVER, Decision, Evidence, Policies
from kvhelpers.guard.responses import RESTORE
from kvhelpers.guard.thresholds import folds_of, train, trained_elsewhere
from kvhelpers.hazard.provenance import study_provenance
from kvhelpers.hazard.risk_set import build
from kvhelpers.models.load import LanguageModel
from kvhelpers.presses.registry import NONE
from kvhelpers.records import Record

NOTHING = Decision(None, RESTORE, lambda: AtToken(NEVER))  # the press alone
HAZARD = ("hazard_restore", "hazard_roll_back", PERMUTED)  # that need a trained hazard


def make_live_study(
    definition: LiveDefinition, folder: Path, command: str | None, only: Sequence[str] = ()
) -> LiveStudy:
    """Guard the runs of the definition's sources, or of these only; what is in ``folder`` is not generated
    again.
    """
    asked = asked_sources(definition, only)
    provenance = study_provenance(command)
    made = [_of_source(part, definition, folder) for part in asked]
    return LiveStudy(
        provenance=provenance,
        definition=definition,
        sources=tuple(source for source, *_ in made),
        runs=tuple(run for _, runs, *_ in made for run in runs),
        curves=tuple(point for *_, points, _ in made for point in points),
        checks=tuple(check for *_, checks in made for check in checks),
    )


class _Loaded:
    """The source's model, loaded when it is first needed."""

    def __init__(self, source: Source):
        self.source, self.lm = source, None

    def __call__(self) -> LanguageModel:
        self.lm = self.lm or load_for(self.source.baseline.condition)
        return self.lm


class _Wanted(NamedTuple):
    policy: str
    draw: int
    label: str
    index: int
    decision: Decision
    keep: int | None
    point: Point | None


def _of_source(
    part: SourceRuns, definition: LiveDefinition, folder: Path
) -> tuple[LiveSource, list[GuardedRun], list[CurvePoint], list[LiveCheck]]:
    source = Source(part)
    load = _Loaded(source)
    evidence = _evidence(source, part, definition, folder, load)
    policies = {label: Policies(source, label, definition, evidence) for label in source.conditions}
    wanted = [
        _Wanted(policy, draw, label, index, decision, keep, _point(label, index, decision, keep))
        for policy in definition.policies
        for label, of_condition in policies.items()
        for draw, decisions in enumerate(of_condition.draws(policy))
        for index, decision in enumerate(decisions)
        for keep in [of_condition.keep(index, decision)]
    ]
    done = continue_runs(source, [one.point for one in wanted if one.point is not None], folder, load)
    runs = [_guarded(source, one, done) for one in wanted]
    outputs = {
        (one.policy, one.label, one.index): _output(source, one, done)
        for one in wanted
        if one.policy not in UNTIMED
    }
    checks = check_live(source, definition, policies, outputs, folder, load) if definition.live else []
    condition = source.baseline.condition
    n_prompts = min(definition.n_prompts, condition.n_prompts)
    described = LiveSource(
        experiment=part.experiment,
        model=condition.model,
        task=condition.task,
        dtype=source.baseline.identity["dtype"],
        conditions=part.conditions,
        n_prompts=n_prompts,
        failing={
            label: tuple(index for index in sorted(onsets(result)) if index < n_prompts)
            for label, result in source.conditions.items()
        },
    )
    return described, runs, _curves(source, definition), checks


def _evidence(
    source: Source, part: SourceRuns, definition: LiveDefinition, folder: Path, load: _Loaded
) -> Evidence:
    records = source.baseline.records[: definition.n_prompts]
    folds = folds_of([record.prompt_id for record in records], definition.folds)
    horizon, false_alarms = definition.horizon, definition.false_alarms
    evidence = Evidence(folds)
    if set(HAZARD) & set(definition.policies):
        risk = build(list(source.every.values()))
        presses = {result.condition.press for result in source.conditions.values()}
        evidence.hazards = {
            (press, fold): trained
            for press in sorted(presses)
            for fold, trained in trained_elsewhere(risk, horizon, false_alarms, press, folds)
        }
    if "hazard_of_other_model" in definition.policies:
        others = [Source(other) for other in definition.sources if other.experiment != part.experiment]
        if others:
            risk = build([result for other in others for result in other.every.values()])
            every = risk.runs["tokens"].to_numpy() >= 0
            evidence.other_model = train(risk, horizon, false_alarms, every)
    if "canary_commit" in definition.policies:
        n = definition.canary_tokens
        labels = [*source.conditions, *(name for name, one in source.every.items() if has_canary(one, n))]
        evidence.canary = {
            label: canary_values(source, label, n, definition.n_prompts, folder, load)
            for label in dict.fromkeys(labels)
        }
    return evidence


def _point(label: str, index: int, decision: Decision, keep: int | None) -> Point | None:
    """Where a run goes on after the decision; None if it is known: it does not act, it stops, or it begins
    again with the full cache.
    """
    if keep is None or decision.response.stop:
        return None
    spec = decision.response.spec
    if keep == 0 and spec.name == NONE:
        return None
    return Point(
        condition=label,
        prompt_index=index,
        keep=keep,
        press=spec.name,
        ratio=spec.ratio,
        press_kwargs=spec.kwargs,
        then=decision.response.then,
    )


def _guarded(source: Source, wanted: _Wanted, done: Mapping[str, Continuation]) -> GuardedRun:
    decision, result = wanted.decision, source.conditions[wanted.label]
    record = result.records[wanted.index]
    full, after = source.baseline.records[wanted.index], wanted.point and done[key_of(wanted.point)]
    spent = cost_of(decision, wanted.keep, record, full, after)
    acted = decision.step is not None
    common = {
        "experiment": source.experiment,
        "policy": wanted.policy,
        "draw": wanted.draw,
        "condition": wanted.label,
        "prompt_index": wanted.index,
        "prompt_id": record.prompt_id,
        "alarm": decision.step,
        "keep": wanted.keep,
        "entry_steps": spent.entry_steps,
        "peak": spent.peak,
        "fed": spent.fed,
        "discarded": spent.discarded,
        "entry_bytes": record.cache.full_bytes / record.cache.prompt_tokens if record.cache else 0.0,
    }
    if after is not None:
        return GuardedRun(
            **common,
            correct=after.correct,
            ended=after.stop_reason.ended,
            error=after.error,
            tokens=after.tokens,
        )
    if acted and decision.response.stop:
        return GuardedRun(**common, correct=False, ended=False, error=None, tokens=decision.step)
    known = full if acted else record
    return GuardedRun(
        **common,
        correct=known.correct,
        ended=known.stop_reason.ended,
        error=known.error,
        tokens=known.n_tokens,
    )


def cost_of(
    decision: Decision, keep: int | None, record: Record, full: Record, after: Continuation | None
) -> Cost:
    """What a run costs under a decision that keeps so many tokens: ``record`` is the run under the press
    alone, ``full`` the uncompressed one, ``after`` how it went on where that is not one of these.
    """
    prompt, kept = record.prompt_tokens, record.cache.kept_tokens if record.cache else record.prompt_tokens
    if decision.step is None:
        return cost([Stretch(prompt, kept, record.n_tokens, decision.beside)])
    before = [Stretch(prompt, kept, decision.step, decision.beside)] if decision.step else []
    if decision.response.stop:
        return cost(before)
    discarded = decision.step - keep
    if after is None:
        return cost([*before, Stretch(prompt, prompt, full.n_tokens)], discarded)
    held, generated = after.held_tokens, after.tokens - (after.held_tokens - prompt)
    kept_then = held if after.kept_tokens is None else after.kept_tokens
    return cost([*before, Stretch(held, kept_then, generated)], discarded)


def _output(source: Source, wanted: _Wanted, done: Mapping[str, Continuation]) -> list[int]:
    """The tokens of a run under a policy."""
    ids = source.tokens(wanted.label)[wanted.index]
    if wanted.decision.step is None:
        return ids
    if wanted.decision.response.stop:
        return ids[: wanted.decision.step]
    if wanted.point is None:
        return source.tokens(source.baseline.label)[wanted.index]
    return [*ids[: wanted.point.keep], *done[key_of(wanted.point)].token_ids]


def _curves(source: Source, definition: LiveDefinition) -> list[CurvePoint]:
    """The runs of each guarded condition's press at all of its ratios, the full cache among them."""
    return [
        CurvePoint(
            experiment=source.experiment,
            condition=label,
            ratio=result.condition.ratio,
            prompt_id=record.prompt_id,
            correct=record.correct,
            entry_steps=cost_of(NOTHING, None, record, record, None).entry_steps,
        )
        for label, guarded in source.conditions.items()
        for result in source.every.values()
        if result is source.baseline or _same_press(result.condition, guarded.condition)
        for record in result.records[: definition.n_prompts]
    ]


def _same_press(one: Condition, other: Condition) -> bool:
    """Whether two conditions differ in nothing but the ratio."""
    return one.ratio is not None and other == one.model_copy(update={"ratio": other.ratio})
