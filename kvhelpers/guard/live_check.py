"""Some prompts guarded while they run: whether their tokens are those composed, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

from kvhelpers.experiment.plain import plain_hash
from kvhelpers.experiment.run import press_seed, prompts_of, rows_together, tags_of
from kvhelpers.generation.generate import Request, Settings, generate
from kvhelpers.guard.alarms import Guard
from kvhelpers.guard.definition import UNTIMED, LiveDefinition, Source
from kvhelpers.guard.live_study import LiveCheck
from kvhelpers.guard.policies import Decision, Policies
from kvhelpers.models.load import LanguageModel
from kvhelpers.paths import write_atomic
from kvhelpers.tasks.prompts import STOP_STRINGS
from kvhelpers.tasks.thinking import is_thinking

TIMES = 2  # that each is run; the faster counts, since the first pays for what is done once
# what changes nothing in the runs that are timed
NOT_IN_KEY = {"name", "objective", "sources", "policies", "permutations", "next_steps"}


def check_live(
    source: Source,
    definition: LiveDefinition,
    policies: Mapping[str, Policies],
    outputs: Mapping[tuple[str, str, int], Sequence[int]],
    folder: Path,
    load: Callable[[], LanguageModel],
) -> list[LiveCheck]:
    """Guard the first ``definition.live`` prompts of each condition under each policy that is timed."""
    timed = [policy for policy in definition.policies if policy not in UNTIMED]
    pairs = [(policy, label) for label in policies for policy in timed]
    checks = []
    for policy, label in tqdm(pairs, desc=f"{source.experiment}, live", unit="policy"):
        decisions = policies[label].decisions(policy)[: definition.live]
        composed = [list(outputs[policy, label, index]) for index in range(len(decisions))]
        settings = definition.model_dump(mode="json", exclude=NOT_IN_KEY)
        key = plain_hash(
            [*LiveCheck.model_fields, source.every[label].condition_hash, policy, settings, composed]
        )
        path = folder / f"live-{key[:24]}.json"
        if not path.exists():
            check = _check(source, definition, policy, label, decisions, composed, load())
            write_atomic(path, partial(_write, check))
        checks.append(LiveCheck.model_validate_json(path.read_text(encoding="utf-8")))
    return checks


def _write(check: LiveCheck, path: Path) -> None:
    path.write_text(check.model_dump_json(), encoding="utf-8")


def _guard(decision: Decision, prompt_tokens: int) -> Guard:
    return Guard(decision.make(), decision.response, prompt_tokens)


def _check(
    source: Source,
    definition: LiveDefinition,
    policy: str,
    label: str,
    decisions: Sequence[Decision],
    composed: Sequence[Sequence[int]],
    lm: LanguageModel,
) -> LiveCheck:
    condition = source.conditions[label].condition
    lm = lm.attending(condition.asked_attention)
    prompts = prompts_of(condition, lm)[: len(decisions)]
    tags = tags_of(condition, lm)
    requests = [
        Request(
            prompt.token_ids,
            condition.press_spec.for_prompt(len(prompt.token_ids)),
            press_seed(condition.seed, prompt.id),
            partial(_guard, decision, len(prompt.token_ids)),
            is_thinking(prompt.opening, tags),
        )
        for prompt, decision in zip(prompts, decisions, strict=True)
    ]
    settings = Settings(
        max_new_tokens=condition.max_new_tokens,
        batch_size=rows_together(condition, lm, prompts),
        stop_strings=STOP_STRINGS,
        repetition_penalty=condition.repetition_penalty,
        canary_tokens=max((decision.beside for decision in decisions), default=0),
        think_tags=tags,
    )
    spent = []
    for _ in range(TIMES):
        started, processor = time.monotonic(), time.process_time()
        runs = list(generate(lm, requests, settings))
        spent.append((time.monotonic() - started, time.process_time() - processor))
    seconds, processor_seconds = map(min, zip(*spent, strict=True))
    return LiveCheck(
        experiment=source.experiment,
        policy=policy,
        condition=label,
        n=len(runs),
        same=sum(run.token_ids == list(composed[run.index]) for run in runs),
        acted=sum(bool(run.acted) for run in runs),
        seconds=round(seconds, 3),
        cpu_seconds=round(processor_seconds, 3),
    )
