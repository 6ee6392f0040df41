"""When each policy acts on each finished run of a condition, and how.

Up to its alarm a guarded run is the run itself, so the alarm is found by showing the run to what would have
watched it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from kvhelpers.errors import InputError
from kvhelpers.guard.alarms import first_alarm
from kvhelpers.guard.definition import QUALITY_LOSS, LiveDefinition
from kvhelpers.guard.policies import NEVER, PERMUTED, Given, RunPolicy, answer_mark, made
from kvhelpers.guard.source import Source, onsets
from kvhelpers.guard.thresholds import Trained


@dataclass(frozen=True)
class Decision:
    """A policy on a finished run: it acts at so many new tokens, of which ``keep`` stay; None: never."""

    step: int | None
    keep: int | None
    policy: RunPolicy


@dataclass
class Evidence:
    """What the alarms of a source's conditions need: trained hazards by press and fold, one of the other
    sources, the canary's values by condition and prompt, and each prompt's fold.
    """

    folds: Mapping[str, int]
    hazards: Mapping[tuple[str, int], Trained] = field(default_factory=dict)
    other_model: Trained | None = None
    canary: Mapping[str, Mapping[int, tuple[float, ...]]] = field(default_factory=dict)


class Decisions:
    """Decisions about the runs of one condition of a source, by prompt index."""

    def __init__(self, source: Source, label: str, definition: LiveDefinition, evidence: Evidence):
        self.source, self.label, self.definition, self.evidence = source, label, definition, evidence
        self.condition = source.conditions[label].condition
        self.records = source.conditions[label].records[: definition.n_prompts]
        self.full = source.baseline.records
        self.tokens, self.signals = source.tokens(label), source.signals(label)
        self.decided: dict[tuple[str, int], list[Decision]] = {}

    def draws(self, name: str) -> list[list[Decision]]:
        """A policy's decisions, once for each time that it draws lots."""
        n = self.definition.permutations if name == PERMUTED else 1
        return [self.decisions(name, draw) for draw in range(n)]

    def decisions(self, name: str, draw: int = 0) -> list[Decision]:
        """A policy's decisions, of one of its draws of lots."""
        if (name, draw) not in self.decided:
            self.decided[name, draw] = self._decide(name, draw)
        return self.decided[name, draw]

    def _decide(self, name: str, draw: int) -> list[Decision]:
        choose = {PERMUTED: self._dealt, "router": self._routed, "oracle": self._rescued}
        choose |= {"oracle_alarm": self._onsets}
        tokens = choose[name](draw) if name in choose else [NEVER] * len(self.records)
        mark = answer_mark(self.condition.model) if name == "force_answer" else ()
        made_for = [self._given(name, record.prompt_id) for record in self.records]
        return [
            self._decision(made(name, Given(token=token, mark=mark, **given)), index)
            for index, (token, given) in enumerate(zip(tokens, made_for, strict=True))
        ]

    def _decision(self, policy: RunPolicy, index: int) -> Decision:
        ids, signals = self.tokens[index], self.signals.get(index, [])
        if policy.beside:
            values = (math.nan, *self.evidence.canary[self.label].get(index, ()))
            beside = [row | {"canary_kl": kl} for row, kl in zip(signals, values, strict=False)]
            signals = [*beside, *signals[len(beside) :]]
        step = first_alarm(policy.make(), ids, signals)
        return Decision(step, None if step is None else policy.response.keep(ids[:step]), policy)

    def _given(self, name: str, prompt: str) -> dict:
        asked = self.definition
        given = {"spec": self.condition.press_spec, "canary_tokens": asked.canary_tokens}
        given |= {"back": asked.roll_back, "fixed_token": asked.fixed_token, "factor": asked.relax}
        if name == "canary_commit":
            return given | {"threshold": self.canary_threshold(prompt)}
        if name == "hazard_of_other_model":
            trained = self.evidence.other_model
            if trained is None:
                raise InputError(f"policy {name!r} needs a second source to learn from")
        elif name.startswith("hazard"):
            trained = self.evidence.hazards[self.condition.press, self.evidence.folds[prompt]]
        else:
            return given
        return given | {"threshold": trained.threshold, "model": trained.model}

    def canary_threshold(self, prompt: str) -> float:
        """The mean divergence that the wanted share of right runs exceeds, of other presses and folds, of all
        conditions with a canary; without such a run the alarm never goes off.
        """
        n, folds = self.definition.canary_tokens, self.evidence.folds
        means = [
            sum(values) / n
            for label, by_prompt in self.evidence.canary.items()
            for result in [self.source.every[label]]
            if result.condition.press != self.condition.press
            for index, values in by_prompt.items()
            for record in [result.records[index]]
            if record.correct and len(values) == n and folds.get(record.prompt_id) != folds[prompt]
        ]
        return float(np.quantile(means, 1 - self.definition.false_alarms)) if means else float("inf")

    def _dealt(self, draw: int) -> Sequence[int]:
        steps = [decision.step for decision in self.decisions("hazard_roll_back")]
        place = list(self.source.conditions).index(self.label)
        order = np.random.default_rng([self.definition.seed, place, draw]).permutation(len(steps))
        return [NEVER if steps[other] is None else steps[other] for other in order]

    def _routed(self, _: int) -> Sequence[int]:
        folds, tokens = self.evidence.folds, []
        for record in self.records:
            lost = [
                int(self.full[other.prompt_index].correct) - int(other.correct)
                for other in self.records
                if folds[other.prompt_id] != folds[record.prompt_id]
            ]
            tokens.append(0 if sum(lost) / max(len(lost), 1) > QUALITY_LOSS else NEVER)
        return tokens

    def _rescued(self, _: int) -> Sequence[int]:
        return [
            0 if self.full[record.prompt_index].correct and not record.correct else NEVER
            for record in self.records
        ]

    def _onsets(self, _: int) -> Sequence[int]:
        found = onsets(self.source.conditions[self.label])
        return [found.get(record.prompt_index, NEVER) for record in self.records]
