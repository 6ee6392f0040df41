"""What a guard is worth: each policy on each run, what it makes of the run and what that costs.

Up to its alarm a guarded run is the finished run; what follows an action is generated (`continuations`), or
is the uncompressed run where nothing was kept. Some prompts are guarded while they run, so that both are
compared token by token and timed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from kvhelpers.experiment.plain import plain_hash
from kvhelpers.experiment.results import ConditionResult
from kvhelpers.experiment.run import (
    generate_prompts,
    load_for,
    press_seed,
    prompts_of,
    rows_together,
    tags_of,
)
from kvhelpers.generation.generate import Request, Settings, generate
from kvhelpers.guard.continuations import Continuation, Point, continue_runs, key_of
from kvhelpers.guard.decisions import Decision, Decisions, Evidence
from kvhelpers.guard.definition import LiveDefinition, SourceRuns, asked_sources
from kvhelpers.guard.ledger import Cost, Stretch, cost
from kvhelpers.guard.policies import PERMUTED, POLICIES
from kvhelpers.guard.source import Source
from kvhelpers.guard.study import Row, Study
from kvhelpers.guard.thresholds import folds_of, train, trained_elsewhere
from kvhelpers.hazard.provenance import study_provenance
from kvhelpers.hazard.risk_set import build
from kvhelpers.models.load import LanguageModel
from kvhelpers.paths import write_atomic
from kvhelpers.presses.registry import NONE
from kvhelpers.records import FIRST_COMPRESSED_TOKEN, Record
from kvhelpers.tasks.thinking import opens_thoughts

HAZARD = ("hazard_restore", "hazard_roll_back", PERMUTED)  # that need a trained hazard
TIMES = 2  # that each live run is made; the faster counts, since the first pays for what is done once
CHECK = ("experiment", "policy", "condition", "n", "same", "acted", "seconds", "cpu_seconds")
# what changes nothing in the runs that are timed
NOT_IN_KEY = {"name", "objective", "sources", "policies", "permutations", "next_steps"}


def make_live_study(
    definition: LiveDefinition, folder: Path, command: str | None, only: Sequence[str] = ()
) -> Study:
    """Guard the runs of the definition's sources, or of these only; what is in ``folder`` is not generated
    again.

    A row a run under a policy, in the ``draw``-th of its draws of lots (0: the only one): ``alarm`` is how
    many new tokens it had when the policy acted, None if it did not, ``keep`` how many stayed;
    ``entry_steps``, ``peak``, ``fed`` and ``discarded`` are the ledger's (`ledger.Cost`), ``entry_bytes`` an
    entry's bytes. A check has the runs of a policy and condition that were guarded while they ran: how many,
    how many had the tokens that were composed, how many were acted on, and what all took together: seconds,
    and seconds of the processor, which other work on the machine lengthens less.
    """
    provenance, runs, checks = study_provenance(command), [], []
    for part in asked_sources(definition, only):
        its_runs, its_checks = _of_source(part, definition, folder)
        runs += its_runs
        checks += its_checks
    return Study(provenance=provenance, definition=definition, runs=runs, checks=checks)


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
    point: Point | None


def _of_source(part: SourceRuns, definition: LiveDefinition, folder: Path) -> tuple[list[Row], list[Row]]:
    source = Source(part)
    load = _Loaded(source)
    evidence = _evidence(source, part, definition, folder, load)
    by_label = {label: Decisions(source, label, definition, evidence) for label in source.conditions}
    wanted = [
        _Wanted(policy, draw, label, index, decision, _point(label, index, decision))
        for policy in definition.policies
        for label, of_condition in by_label.items()
        for draw, decisions in enumerate(of_condition.draws(policy))
        for index, decision in enumerate(decisions)
    ]
    done = continue_runs(source, [one.point for one in wanted if one.point is not None], folder, load)
    live = [one for one in wanted if POLICIES[one.policy].usable and one.index < definition.live]
    checks = _check_live(source, definition, live, done, folder, load) if live else []
    return [_guarded(source, one, done) for one in wanted], checks


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
        labels = [*source.conditions, *(name for name, one in source.every.items() if _has_canary(one, n))]
        evidence.canary = {
            label: _canary(source.every[label], n, definition.n_prompts, folder, load)
            for label in dict.fromkeys(labels)
        }
    return evidence


def _has_canary(result: ConditionResult, tokens: int) -> bool:
    """Whether a compressed condition's runs hold a canary of so many tokens."""
    return result.condition.press != NONE and result.condition.canary_tokens >= tokens


def _canary(
    result: ConditionResult, tokens: int, n_prompts: int, folder: Path, load: _Loaded
) -> dict[int, tuple[float, ...]]:
    """The divergence (nats) of a condition's first compressed tokens from the full cache, by prompt index;
    those of shorter runs are fewer. Runs that were made without a canary are begun again beside it.
    """
    first = FIRST_COMPRESSED_TOKEN
    if _has_canary(result, tokens):
        table = result.signals(["prompt_index", "step", "canary_kl"])
        table = table[table["step"].between(first, first + tokens - 1) & (table["prompt_index"] < n_prompts)]
        by_prompt = table.sort_values(["prompt_index", "step"]).groupby("prompt_index")
        return {index: tuple(part["canary_kl"].tolist()) for index, part in by_prompt}

    def measured() -> dict[int, list[float]]:
        changes = {"max_new_tokens": tokens + first, "canary_tokens": tokens}
        condition = result.condition.model_copy(update=changes)
        lm = load().attending(condition.asked_attention)
        prompts = prompts_of(condition, lm)[:n_prompts]
        runs = generate_prompts(condition, lm, prompts, rows_together(condition, lm, prompts))
        bar = tqdm(runs, total=len(prompts), desc=f"canary of {result.label}", unit="prompt")
        return {run.index: np.asarray(run.signals["canary_kl"])[first:].astype(float).tolist() for run in bar}

    path = folder / f"canary-{result.condition_hash[:16]}-{tokens}-{n_prompts}.json"
    return {int(index): tuple(values) for index, values in _kept(path, measured).items()}


def _kept(path: Path, make) -> Any:
    """What a JSON file holds; it is made if it is not there."""
    if not path.exists():
        text = json.dumps(make())
        write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return json.loads(path.read_text(encoding="utf-8"))


def _point(label: str, index: int, decision: Decision) -> Point | None:
    """Where a run goes on after the decision; None if it is known: it does not act, it stops, or it begins
    again with the full cache.
    """
    response, spec = decision.policy.response, decision.policy.response.spec
    if decision.keep is None or response.stop or (decision.keep == 0 and spec.name == NONE):
        return None
    return Point(
        condition=label,
        prompt_index=index,
        keep=decision.keep,
        press=spec.name,
        ratio=spec.ratio,
        press_kwargs=spec.kwargs,
        then=response.then,
    )


def _guarded(source: Source, wanted: _Wanted, done: Mapping[str, Continuation]) -> Row:
    decision, result = wanted.decision, source.conditions[wanted.label]
    record = result.records[wanted.index]
    full, after = source.baseline.records[wanted.index], wanted.point and done[key_of(wanted.point)]
    row = {
        "experiment": source.experiment,
        "policy": wanted.policy,
        "draw": wanted.draw,
        "condition": wanted.label,
        "prompt_index": wanted.index,
        "prompt_id": record.prompt_id,
        "alarm": decision.step,
        "keep": decision.keep,
    }
    if after is not None:
        ends = (after.correct, after.stop_reason.ended, after.error, after.tokens)
    elif decision.step is not None and decision.policy.response.stop:
        ends = (False, False, None, decision.step)
    else:
        known = record if decision.step is None else full
        ends = (known.correct, known.stop_reason.ended, known.error, known.n_tokens)
    row |= dict(zip(("correct", "ended", "error", "tokens"), ends, strict=True))
    row |= asdict(cost_of(decision, record, full, after))
    entry_bytes = record.cache.full_bytes / record.cache.prompt_tokens if record.cache else 0.0
    return row | {"entry_bytes": entry_bytes}


def cost_of(decision: Decision, record: Record, full: Record, after: Continuation | None) -> Cost:
    """What a run costs under a decision: ``record`` is the run under the press alone, ``full`` the
    uncompressed one, ``after`` how it went on where that is not one of these.
    """
    prompt, beside = record.prompt_tokens, decision.policy.beside
    kept = record.cache.kept_tokens if record.cache else prompt
    if decision.step is None:
        return cost([Stretch(prompt, kept, record.n_tokens, beside)])
    before = [Stretch(prompt, kept, decision.step, beside)] if decision.step else []
    if decision.policy.response.stop:
        return cost(before)
    discarded = decision.step - decision.keep
    if after is None:
        return cost([*before, Stretch(prompt, prompt, full.n_tokens)], discarded)
    held, generated = after.held_tokens, after.tokens - (after.held_tokens - prompt)
    kept_then = held if after.kept_tokens is None else after.kept_tokens
    return cost([*before, Stretch(held, kept_then, generated)], discarded)


def _output(source: Source, wanted: _Wanted, done: Mapping[str, Continuation]) -> list[int]:
    """The tokens of a run under a policy."""
    ids = source.tokens(wanted.label)[wanted.index]
    if wanted.decision.step is None:
        return list(ids)
    if wanted.decision.policy.response.stop:
        return list(ids[: wanted.decision.step])
    if wanted.point is None:
        return list(source.tokens(source.baseline.label)[wanted.index])
    return [*ids[: wanted.point.keep], *done[key_of(wanted.point)].token_ids]


def _check_live(
    source: Source,
    definition: LiveDefinition,
    wanted: Sequence[_Wanted],
    done: Mapping[str, Continuation],
    folder: Path,
    load: _Loaded,
) -> list[Row]:
    """Guard these runs while they go on, all of a policy and condition together."""
    groups: dict[tuple[str, str], list[_Wanted]] = {}
    for label in source.conditions:
        for one in [one for one in wanted if one.label == label]:
            groups.setdefault((one.policy, label), []).append(one)
    settings = definition.model_dump(mode="json", exclude=NOT_IN_KEY)
    checks = []
    for (policy, label), part in tqdm(groups.items(), desc=f"{source.experiment}, live", unit="policy"):
        composed = [_output(source, one, done) for one in part]
        key = plain_hash([*CHECK, source.every[label].condition_hash, policy, settings, composed])
        check = partial(_check, source, part, composed, load)
        checks.append(_kept(folder / f"live-{key[:24]}.json", check))
    return checks


def _check(source: Source, wanted: Sequence[_Wanted], composed: Sequence[list[int]], load: _Loaded) -> Row:
    policy, label = wanted[0].policy, wanted[0].label
    condition = source.conditions[label].condition
    lm = load().attending(condition.asked_attention)
    prompts, tags = prompts_of(condition, lm)[: len(wanted)], tags_of(condition, lm)
    requests = [
        Request(
            prompt.token_ids,
            condition.press_spec.for_prompt(len(prompt.token_ids)),
            press_seed(condition.seed, prompt.id),
            partial(one.decision.policy.guard, len(prompt.token_ids)),
            opens_thoughts(prompt.opening, tags),
        )
        for prompt, one in zip(prompts, wanted, strict=True)
    ]
    settings = Settings(
        max_new_tokens=condition.max_new_tokens,
        batch_size=rows_together(condition, lm, prompts),
        stop_strings=condition.ends,
        repetition_penalty=condition.repetition_penalty,
        canary_tokens=max(one.decision.policy.beside for one in wanted),
        think_tags=tags,
    )
    spent = []
    for _ in range(TIMES):
        started, processor = time.monotonic(), time.process_time()
        runs = list(generate(lm, requests, settings))
        spent.append((time.monotonic() - started, time.process_time() - processor))
    seconds, cpu_seconds = (round(min(part), 3) for part in zip(*spent, strict=True))
    same = sum(run.token_ids == composed[run.index] for run in runs)
    acted = sum(bool(run.acted) for run in runs)
    values = (source.experiment, policy, label, len(runs), same, acted, seconds, cpu_seconds)
    return dict(zip(CHECK, values, strict=True))
