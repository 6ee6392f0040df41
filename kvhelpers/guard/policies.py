"""Policies: when a guard acts, and how. One table says it for runs to come and for finished ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kvhelpers.errors import InputError, unknown_name
from kvhelpers.guard.alarms import REPEATED, Alarm, AtToken, CanaryAlarm, Guard, HazardAlarm, RepetitionAlarm
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
from kvhelpers.hazard.model import HazardModel
from kvhelpers.presses.spec import PressSpec

FULL, PRESS, PERMUTED = "none", "press", "permuted"
NEVER = -1  # new tokens at which an alarm goes off that never does


@dataclass(frozen=True)
class Given:
    """What a policy is made of: the press; a ``threshold``, which is a probability for the hazard, of which
    ``model`` is the model, and a divergence in nats for the canary; for how many tokens the full cache stands
    beside; how many tokens are taken back; the token at which the ratio is multiplied by ``factor``; the
    tokens that force an answer; and the token that was chosen from finished runs.
    """

    spec: PressSpec
    threshold: float = 0.0
    model: HazardModel | None = None
    canary_tokens: int = 8
    back: int = 16
    fixed_token: int = 32
    factor: float = 0.5
    mark: Sequence[int] = ()
    token: int = NEVER


@dataclass(frozen=True)
class Policy:
    """``words`` say what it is, ``alarm`` and ``response`` make its parts. With ``needs_runs`` it rests on
    finished runs of the condition; one that is not ``usable`` rests on what nobody knows while a run goes on.
    """

    words: str
    alarm: Callable[[Given], Alarm]
    response: Callable[[Given], Response] = lambda given: RESTORE
    needs_runs: bool = False
    usable: bool = True


def _hazard(given: Given) -> Alarm:
    return HazardAlarm(given.model, given.threshold)


def _canary(given: Given) -> Alarm:
    return CanaryAlarm(given.threshold, given.canary_tokens)


def _repetition(given: Given) -> Alarm:
    return RepetitionAlarm()


def _chosen(given: Given) -> Alarm:
    return AtToken(given.token)


def _back(given: Given) -> Response:
    return roll_back(given.back)


POLICIES = {
    FULL: Policy("the full cache", lambda given: AtToken(0)),
    PRESS: Policy("the press alone", lambda given: AtToken(NEVER)),
    "stop": Policy("the press; a run that repeats itself is stopped", _repetition, lambda given: STOP),
    "repetition_restart": Policy(
        "the press; a run that repeats itself begins again with the full cache",
        _repetition,
        lambda given: RESTART,
    ),
    "prune": Policy(
        "the press; a run that repeats itself loses the repeated tail, and goes on under the press anew",
        _repetition,
        lambda given: prune(REPEATED, given.spec),
    ),
    "force_answer": Policy(
        "the press; a run that repeats itself is made to answer, under the press anew",
        _repetition,
        lambda given: force(given.mark, given.spec),
    ),
    "hazard_restore": Policy(
        "the press; when the hazard exceeds its threshold, the full cache is restored", _hazard
    ),
    "hazard_roll_back": Policy("the same, after some tokens are taken back", _hazard, _back),
    "hazard_of_other_model": Policy(
        "as hazard_roll_back, with a hazard model of the other sources' runs",
        _hazard,
        _back,
        needs_runs=True,
    ),
    PERMUTED: Policy(
        "as hazard_roll_back, with the alarms dealt out anew among the condition's runs",
        _chosen,
        _back,
        needs_runs=True,
        usable=False,
    ),
    "canary_commit": Policy(
        "both caches for the first tokens; then once: go on with the full one or the press's", _canary
    ),
    "fixed_relax": Policy(
        "the press; at a fixed token a milder ratio",
        lambda given: AtToken(given.fixed_token),
        lambda given: relax(given.spec, given.factor),
    ),
    "router": Policy(
        "the press, or the full cache where the press loses too much on other prompts",
        _chosen,
        needs_runs=True,
    ),
    "oracle": Policy(
        "the press; runs that end right only with the full cache begin with it",
        _chosen,
        needs_runs=True,
        usable=False,
    ),
    "oracle_alarm": Policy(
        "as hazard_roll_back, at the true onset of each failure",
        _chosen,
        _back,
        needs_runs=True,
        usable=False,
    ),
}


@dataclass(frozen=True)
class RunPolicy:
    """A policy for one run: what makes its alarm, its response, and for how many tokens the full cache stands
    beside.
    """

    make: Callable[[], Alarm]
    response: Response
    beside: int = 0

    def guard(self, prompt_tokens: int) -> Guard:
        """What watches a run whose prompt has so many tokens."""
        return Guard(self.make(), self.response, prompt_tokens)


def made(name: str, given: Given) -> RunPolicy:
    """A policy of the table, of what is given."""
    policy = POLICIES[name]
    beside = given.canary_tokens if name == "canary_commit" else 0
    return RunPolicy(lambda: policy.alarm(given), policy.response(given), beside)


def run_policy(name: str, threshold: float, spec: PressSpec, model: HazardModel | None = None, **others):
    """A policy by name for runs that have not been made yet, a `RunPolicy`; ``others`` are further parts of
    `Given`.

    Raises
    ------
    InputError : a policy that does not exist or that needs finished runs, a threshold that cannot be one, a
        model trained on features that are not known token by token.
    """
    if threshold < 0:
        raise InputError(f"threshold {threshold} is below 0")
    if name not in POLICIES:
        raise unknown_name("policy", name, [one for one in POLICIES if not POLICIES[one].needs_runs])
    if POLICIES[name].needs_runs:
        raise InputError(f"policy {name!r} needs finished runs of the condition; see experiment 012")
    if model is None and POLICIES[name].alarm is _hazard:
        raise InputError(f"policy {name!r} needs a hazard model")
    policy = made(name, Given(spec, threshold, model, **others))
    policy.make()  # so that what is wrong with it is found before a model is loaded
    return policy


def answer_mark(model: str) -> list[int]:
    """The tokens of a model that stand before an answer."""
    from kvhelpers.models.load import load_tokenizer  # needs torch

    return load_tokenizer(model).encode(MARK, add_special_tokens=False)
