"""One run guarded while it goes on, beside the same run without a guard."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pandas as pd

from kvhelpers.experiment.condition import Condition
from kvhelpers.experiment.run import load_for, press_seed, prompts_of, recorded, tags_of
from kvhelpers.generation.generate import Generation, Request, Settings, generate
from kvhelpers.guard.ledger import Stretch, over_time
from kvhelpers.guard.policies import RunPolicy
from kvhelpers.guard.source import refuse_context, refuse_quantized
from kvhelpers.hazard.features import READS
from kvhelpers.hazard.model import HazardModel
from kvhelpers.hazard.online import OnlineScorer
from kvhelpers.models.load import LanguageModel
from kvhelpers.records import Record
from kvhelpers.tasks.prompts import Prompt
from kvhelpers.tasks.thinking import opens_thoughts


@dataclass(frozen=True)
class WatchedRun:
    """A run with its record and its tokens (`experiment.run.recorded`), and the cache entries held at each
    token, those taken back included.
    """

    run: Generation
    record: Record
    tokens: pd.DataFrame
    entries: list[float]


@dataclass(frozen=True)
class SideBySide:
    """A prompt's run under the press alone, guarded, and without a press; which prompt it is, and of the
    guard's prompts how many ended right under the press alone, guarded, and without one.
    """

    prompt: Prompt
    alone: WatchedRun
    guarded: WatchedRun
    full: WatchedRun
    right: tuple[int, int, int]


def run_side_by_side(condition: Condition, policy: RunPolicy) -> SideBySide:
    """Run the condition's prompts under the press alone, guarded and uncompressed; show a prompt that
    is right only when guarded, else one on which the guard acts, else one that fails.

    Raises InputError where the context alone is compressed.
    """
    refuse_context(condition)
    refuse_quantized(condition)
    lm = load_for(condition)
    prompts = prompts_of(condition, lm)
    alone = _run(condition, lm, prompts, None)
    guarded = _run(condition, lm, prompts, policy)
    full = _run(condition.uncompressed(), lm, prompts, None)

    def interest(place: int) -> tuple[bool, bool, bool]:
        acted = bool(guarded[place].run.acted)
        helped = guarded[place].record.correct and not alone[place].record.correct
        return acted and helped, acted, not alone[place].record.correct

    shown = max(range(len(prompts)), key=interest)
    right = tuple(sum(run.record.correct for run in runs) for runs in (alone, guarded, full))
    return SideBySide(prompts[shown], alone[shown], guarded[shown], full[shown], right)


def _run(
    condition: Condition, lm: LanguageModel, prompts: list[Prompt], policy: RunPolicy | None
) -> list[WatchedRun]:
    tags = tags_of(condition, lm)
    requests = [
        Request(
            prompt.token_ids,
            condition.press_spec.for_prompt(len(prompt.token_ids)),
            press_seed(condition.seed, prompt.id),
            policy and partial(policy.guard, len(prompt.token_ids)),
            opens_thoughts(prompt.opening, tags),
        )
        for prompt in prompts
    ]
    beside = policy.beside if policy else 0
    settings = Settings(
        max_new_tokens=condition.max_new_tokens,
        batch_size=len(prompts),
        stop_strings=condition.ends,
        repetition_penalty=condition.repetition_penalty,
        canary_tokens=beside,
        think_tags=tags,
    )
    runs = sorted(generate(lm, requests, settings), key=lambda run: run.index)
    return [
        WatchedRun(
            run,
            *recorded(condition, lm, run.index, prompt, run),
            over_time(stretches_of(run, len(prompt.token_ids), beside)),
        )
        for run, prompt in zip(runs, prompts, strict=True)
    ]


def stretches_of(run: Generation, prompt_tokens: int, beside: int = 0) -> list[Stretch]:
    """What the ledger is kept of: the stretches between a run's actions."""
    kept = run.cache.kept_tokens if run.cache else prompt_tokens
    stretches, held, stood = [], prompt_tokens, 0
    for acted in run.acted:
        if acted.step > stood:
            stretches.append(Stretch(held, kept, acted.step - stood, 0 if stretches else beside))
        stood = acted.step
        if acted.cache:  # None where the run stopped
            held, kept = acted.cache.prompt_tokens, acted.cache.kept_tokens
            stood = held - prompt_tokens
    if len(run.token_ids) > stood:
        stretches.append(Stretch(held, kept, len(run.token_ids) - stood, 0 if stretches else beside))
    return stretches


def risk_of(run: Generation, model: HazardModel) -> list[float]:
    """The hazard model's risk at each of a run's tokens."""
    scorer = OnlineScorer(model)
    columns = {name: run.signals[name].tolist() for name in READS}
    return [
        scorer.push(token, {name: column[place] for name, column in columns.items()})
        for place, token in enumerate(run.token_ids)
    ]


def risk_over_time(alone: Generation, guarded: Generation, model: HazardModel) -> list[float]:
    """The risk at each token that a guarded run generated, those taken back included: up to its action the
    run is the one without a guard.
    """
    before, after = risk_of(alone, model), risk_of(guarded, model)
    return [*before[: guarded.acted[0].step], *after[guarded.acted[0].keep :]] if guarded.acted else after
