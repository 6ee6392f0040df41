"""What makes a guard act: alarms that watch one run, and the guard that acts on one of them once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

from kvhelpers.errors import InputError
from kvhelpers.generation.watch import Action
from kvhelpers.guard.responses import Response
from kvhelpers.hazard.model import HazardModel
from kvhelpers.hazard.online import OnlineScorer
from kvhelpers.records import FIRST_COMPRESSED_TOKEN

REPEATED = 20  # tokens of output that occurred before: a loop's window


class Alarm(Protocol):
    """Watches one run."""

    def due(self, tokens: Sequence[int], signals: Mapping[str, float] | None) -> bool:
        """Whether the alarm goes off now; asked once before the prefill and after each token, as
        `generation.watch.Watcher.look`.
        """


class HazardAlarm:
    """Goes off when the hazard model's risk exceeds a threshold.

    Raises
    ------
    InputError : a threshold outside [0, 1], a model trained on features that are not known token by token.
    """

    def __init__(self, model: HazardModel, threshold: float):
        if not 0 <= threshold <= 1:
            raise InputError(f"threshold {threshold} is outside [0, 1]; it is a probability")
        self.scorer, self.threshold = OnlineScorer(model), threshold
        self.risk: list[float] = []

    def due(self, tokens: Sequence[int], signals: Mapping[str, float] | None) -> bool:
        if signals is None:
            return False
        self.risk.append(self.scorer.push(tokens[-1], signals))
        return len(tokens) > FIRST_COMPRESSED_TOKEN and self.risk[-1] > self.threshold


class CanaryAlarm:
    """Goes off once, when the full cache has stood beside for so many tokens, if the mean divergence from it
    (nats) exceeds a threshold.

    Raises
    ------
    InputError : no divergence is measured: the run has no canary.
    """

    def __init__(self, threshold: float, tokens: int):
        self.threshold, self.tokens = threshold, tokens
        self.divergence: list[float] = []

    def due(self, tokens: Sequence[int], signals: Mapping[str, float] | None) -> bool:
        if not FIRST_COMPRESSED_TOKEN < len(tokens) <= self.tokens + FIRST_COMPRESSED_TOKEN:
            return False
        self.divergence.append(signals["canary_kl"])
        if math.isnan(self.divergence[-1]):
            raise InputError(f"canary_commit needs a canary of {self.tokens} tokens; set canary_tokens")
        is_last = len(tokens) == self.tokens + FIRST_COMPRESSED_TOKEN
        return is_last and sum(self.divergence) / len(self.divergence) > self.threshold


class RepetitionAlarm:
    """Goes off when the last tokens, `REPEATED` of them, occurred in the output before."""

    def __init__(self, length: int = REPEATED):
        self.length, self.seen = length, set()

    def due(self, tokens: Sequence[int], signals: Mapping[str, float] | None) -> bool:
        if len(tokens) < self.length:
            return False
        window = tuple(tokens[-self.length :])
        is_repeated = window in self.seen
        self.seen.add(window)
        return is_repeated


class AtToken:
    """Goes off when the run has so many new tokens; 0 is before the prefill."""

    def __init__(self, n_tokens: int):
        self.n_tokens = n_tokens

    def due(self, tokens: Sequence[int], signals: Mapping[str, float] | None) -> bool:
        return len(tokens) == self.n_tokens


class Guard:
    """Acts once, as ``response`` says, when the alarm goes off on a run whose prompt has so many tokens."""

    def __init__(self, alarm: Alarm, response: Response, prompt_tokens: int):
        self.alarm, self.response, self.prompt_tokens = alarm, response, prompt_tokens
        self.acted = False

    def look(self, tokens: Sequence[int], signals: Mapping[str, float] | None) -> Action | None:
        if self.acted or not self.alarm.due(tokens, signals):
            return None
        self.acted = True
        return self.response.action(self.prompt_tokens, tokens)


def first_alarm(alarm: Alarm, token_ids: Sequence[int], signals: Sequence[Mapping[str, float]]) -> int | None:
    """How many new tokens a finished run had when the alarm would have gone off, None if it would not.

    A run is the same with and without a guard up to there, so this is when a guard acts on it.
    """
    for n_tokens in range(max(len(token_ids), 1)):  # the last token ended the run
        if alarm.due(token_ids[:n_tokens], signals[n_tokens - 1] if n_tokens else None):
            return n_tokens
    return None
