"""What is done when an alarm goes off.

restore     go on with the full cache of prompt and output
roll back   take tokens back first
restart     take all of them back
relax       go on under a milder press
prune       take the repeated tail back, and go on under the press applied anew
force       put the answer's mark behind the output, under the press applied anew
stop        end the run: a baseline, since loops cost memory too
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kvhelpers.errors import InputError
from kvhelpers.generation.watch import Action
from kvhelpers.presses.registry import NONE
from kvhelpers.presses.spec import PressSpec

FULL = PressSpec(NONE, 0.0)
MARK = "\n#### "  # of GSM8K's answers


@dataclass(frozen=True)
class Response:
    """``back`` tokens are taken back, None takes back all; with ``prune`` those from the second occurrence
    of the last ``prune`` tokens on. ``then`` are put behind what stays; ``spec`` is the press of the new
    cache.
    """

    name: str
    back: int | None = 0
    spec: PressSpec = FULL
    stop: bool = False
    prune: int = 0
    then: tuple[int, ...] = ()

    def keep(self, tokens: Sequence[int]) -> int:
        """How many of a run's new tokens stay."""
        if self.back is None:
            return 0
        if self.prune:
            return _second_occurrence(tokens, self.prune)
        return max(0, len(tokens) - self.back)

    def action(self, prompt_tokens: int, tokens: Sequence[int]) -> Action:
        """The action for a run with these tokens."""
        keep = self.keep(tokens)
        press = None if self.stop else self.spec.for_prompt(prompt_tokens + keep + len(self.then))
        return Action(self.name, keep, press, self.then, self.stop)


def _second_occurrence(tokens: Sequence[int], length: int) -> int:
    """Where the last ``length`` tokens occur for the second time; all tokens if they occur once."""
    last = list(tokens[-length:])
    starts = (
        start for start in range(len(tokens) - length + 1) if list(tokens[start : start + length]) == last
    )
    next(starts, None)
    return next(starts, len(tokens))


RESTORE = Response("restore")
RESTART = Response("restart", back=None)
STOP = Response("stop", stop=True)


def prune(length: int, spec: PressSpec) -> Response:
    """Take back what follows the first occurrence of the last ``length`` tokens, under the press anew."""
    return Response("prune", spec=spec, prune=length)


def force(then: Sequence[int], spec: PressSpec) -> Response:
    """Put the answer's mark behind the output, under the press anew."""
    return Response("force the answer", spec=spec, then=tuple(then))


def roll_back(tokens: int) -> Response:
    """Take so many tokens back and restore. Raises InputError for less than one."""
    if tokens < 1:
        raise InputError(f"roll_back {tokens} is not allowed; it is a number of tokens from 1 on")
    return Response("roll back", back=tokens)


def relax(spec: PressSpec, factor: float) -> Response:
    """The same press with its ratio times ``factor``. Raises InputError unless that is milder."""
    if not 0 <= factor < 1:
        raise InputError(f"relax {factor} is outside [0, 1); it multiplies the ratio")
    if spec.ratio is None:
        raise InputError(f"press {spec.name!r} has a budget, and relaxing multiplies a ratio; use restore")
    return Response("relax", spec=PressSpec(spec.name, round(factor * spec.ratio, 6), None, spec.kwargs))
