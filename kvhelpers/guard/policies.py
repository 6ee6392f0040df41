"""When each policy acts on each run of a condition, and how.

Runs are finished ones: up to its alarm a guarded run is the run itself, so the alarm is found by showing the
run to what would have watched it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from kvhelpers.errors import InputError
from kvhelpers.guard.acted_runs import onsets
from kvhelpers.guard.alarms import (
    REPEATED,
    Alarm,
    AtToken,
    CanaryAlarm,
    HazardAlarm,
    RepetitionAlarm,
    first_alarm,
)
from kvhelpers.guard.definition import PERMUTED, QUALITY_LOSS, LiveDefinition, Source
from kvhelpers.guard.responses import (
    MARK,
    RESTART,
    RESTORE,
    STOP,
    Response,
    force,
    prune,
    relax,
    roll_back,
)
from kvhelpers.guard.thresholds import Trained
from kvhelpers.models.load import load_tokenizer

NEVER = -1  # new tokens at which an alarm goes off that never does


def answer_mark(model: str) -> list[int]:
    """The tokens of a model that stand before an answer."""
    return load_tokenizer(model).encode(MARK, add_special_tokens=False)


@dataclass(frozen=True)
class Decision:
    """What a policy does to a run: at so many new tokens (None: nothing) it responds; until then the full
    cache stood ``beside`` for so many tokens. ``make`` makes the alarm again, for a run that goes on.
    """

    step: int | None
    response: Response
    make: Callable[[], Alarm]
    beside: int = 0


@dataclass
class Evidence:
    """What the alarms of a source's conditions need: trained hazards by press and fold, one of the other
    sources, the canary's values by condition and prompt, and each prompt's fold.
    """

    folds: Mapping[str, int]
    hazards: Mapping[tuple[str, int], Trained] = field(default_factory=dict)
    other_model: Trained | None = None
    canary: Mapping[str, Mapping[int, tuple[float, ...]]] = field(default_factory=dict)


class Policies:
    """Decisions about the runs of one condition of a source."""

    def __init__(self, source: Source, label: str, definition: LiveDefinition, evidence: Evidence):
        self.source, self.label, self.definition, self.evidence = source, label, definition, evidence
        self.result = source.conditions[label]
        self.records = self.result.records[: definition.n_prompts]
        self.tokens, self.signals = source.tokens(label), source.signals(label)
        self.decided: dict[str, list[Decision]] = {}

    def decisions(self, policy: str) -> list[Decision]:
        """A policy's decisions by prompt index, for one that draws no lots."""
        if policy not in self.decided:
            self.decided[policy] = getattr(self, f"_{policy}")()
        return self.decided[policy]

    def draws(self, policy: str) -> list[list[Decision]]:
        """A policy's decisions by prompt index, once for each time that it draws lots."""
        if policy != PERMUTED:
            return [self.decisions(policy)]
        return [self._permuted(draw) for draw in range(self.definition.permutations)]

    def _none(self) -> list[Decision]:
        return [self._at(0, RESTORE) for _ in self.records]

    def _press(self) -> list[Decision]:
        return [self._at(None, RESTORE) for _ in self.records]

    def _stop(self) -> list[Decision]:
        return [self._watched(index, RepetitionAlarm, STOP) for index in range(len(self.records))]

    def _repetition_restart(self) -> list[Decision]:
        return [self._watched(index, RepetitionAlarm, RESTART) for index in range(len(self.records))]

    def _prune(self) -> list[Decision]:
        response = prune(REPEATED, self.result.condition.press_spec)
        return [self._watched(index, RepetitionAlarm, response) for index in range(len(self.records))]

    def _force_answer(self) -> list[Decision]:
        response = force(answer_mark(self.result.condition.model), self.result.condition.press_spec)
        return [self._watched(index, RepetitionAlarm, response) for index in range(len(self.records))]

    def _hazard_restore(self) -> list[Decision]:
        return self._hazard(RESTORE)

    def _hazard_roll_back(self) -> list[Decision]:
        return self._hazard(roll_back(self.definition.roll_back))

    def _hazard(self, response: Response) -> list[Decision]:
        return [
            self._watched(index, self._hazard_alarm(self._trained(index)), response)
            for index in range(len(self.records))
        ]

    def _hazard_of_other_model(self) -> list[Decision]:
        trained = self.evidence.other_model
        if trained is None:
            raise InputError("policy 'hazard_of_other_model' needs a second source to learn from")
        response = roll_back(self.definition.roll_back)
        return [
            self._watched(index, self._hazard_alarm(trained), response) for index in range(len(self.records))
        ]

    def _permuted(self, draw: int) -> list[Decision]:
        steps = [decision.step for decision in self.decisions("hazard_roll_back")]
        place = list(self.source.conditions).index(self.label)
        order = np.random.default_rng([self.definition.seed, place, draw]).permutation(len(steps))
        response, decisions = roll_back(self.definition.roll_back), []
        for record, other in zip(self.records, order, strict=True):
            step = steps[other]
            comes = step is not None and step < record.n_tokens
            decisions.append(self._at(step if comes else None, response))
        return decisions

    def _canary_commit(self) -> list[Decision]:
        n, decisions = self.definition.canary_tokens, []
        for index, record in enumerate(self.records):
            values = self.evidence.canary[self.label].get(index, ())
            threshold = self._canary_threshold(record.prompt_id)
            fires = len(values) == n and record.n_tokens > n + 1 and sum(values) / n > threshold
            step = n + 1 if fires else None
            decisions.append(Decision(step, RESTORE, lambda t=threshold: CanaryAlarm(t, n), n))
        return decisions

    def _canary_threshold(self, prompt: str) -> float:
        """The mean divergence that the wanted share of right runs exceeds, of other presses and folds, of all
        conditions with a canary; without such a run the alarm never goes off.
        """
        n, folds = self.definition.canary_tokens, self.evidence.folds
        means = [
            sum(values) / n
            for label, by_prompt in self.evidence.canary.items()
            for result in [self.source.every[label]]
            if result.condition.press != self.result.condition.press
            for index, values in by_prompt.items()
            for record in [result.records[index]]
            if record.correct and len(values) == n and folds.get(record.prompt_id) != folds[prompt]
        ]
        return float(np.quantile(means, 1 - self.definition.false_alarms)) if means else float("inf")

    def _fixed_relax(self) -> list[Decision]:
        step, response = (
            self.definition.fixed_token,
            relax(self.result.condition.press_spec, self.definition.relax),
        )
        return [self._at(step if record.n_tokens > step else None, response) for record in self.records]

    def _router(self) -> list[Decision]:
        folds, full = self.evidence.folds, self.source.baseline.records
        decisions = []
        for record in self.records:
            others = [
                int(full[other.prompt_index].correct) - int(other.correct)
                for other in self.records
                if folds[other.prompt_id] != folds[record.prompt_id]
            ]
            loses = sum(others) / max(len(others), 1) > QUALITY_LOSS
            decisions.append(self._at(0 if loses else None, RESTORE))
        return decisions

    def _oracle(self) -> list[Decision]:
        full = self.source.baseline.records
        return [
            self._at(0 if full[record.prompt_index].correct and not record.correct else None, RESTORE)
            for record in self.records
        ]

    def _oracle_alarm(self) -> list[Decision]:
        response, at = roll_back(self.definition.roll_back), onsets(self.result)
        return [self._at(at.get(record.prompt_index), response) for record in self.records]

    def _trained(self, index: int) -> Trained:
        fold = self.evidence.folds[self.records[index].prompt_id]
        return self.evidence.hazards[self.result.condition.press, fold]

    @staticmethod
    def _hazard_alarm(trained: Trained) -> Callable[[], Alarm]:
        return lambda: HazardAlarm(trained.model, trained.threshold)

    @staticmethod
    def _at(step: int | None, response: Response) -> Decision:
        return Decision(step, response, lambda: AtToken(NEVER if step is None else step))

    def keep(self, index: int, decision: Decision) -> int | None:
        """How many tokens of a run stay under a decision; None if it does nothing."""
        if decision.step is None:
            return None
        return decision.response.keep(self.tokens[index][: decision.step])

    def _watched(self, index: int, make: Callable[[], Alarm], response: Response) -> Decision:
        step = first_alarm(make(), self.tokens[index], self.signals.get(index, []))
        return Decision(step, response, make)
