"""What is done when an alarm goes off.

restore     go on with the full cache of prompt and output
roll back   take tokens back first
restart     take all of them back
relax       go on under a milder press
stop        end the run: a baseline, since loops cost memory too
"""

from __future__ import annotations

from dataclasses import dataclass

from kvhelpers.errors import InputError
from kvhelpers.generation.watch import Action
from kvhelpers.presses.registry import NONE
from kvhelpers.presses.spec import PressSpec

FULL = PressSpec(NONE, 0.0)


@dataclass(frozen=True)
class Response:
    """``back`` tokens are taken back, None takes back all; ``spec`` is the press of the new cache."""

    name: str
    back: int | None = 0
    spec: PressSpec = FULL
    stop: bool = False

    def keep(self, n_tokens: int) -> int:
        """How many of a run's new tokens stay."""
        return 0 if self.back is None else max(0, n_tokens - self.back)

    def action(self, prompt_tokens: int, n_tokens: int) -> Action:
        """The action for a run with so many tokens."""
        keep = self.keep(n_tokens)
        press = None if self.stop else self.spec.for_prompt(prompt_tokens + keep)
        return Action(self.name, keep, press, stop=self.stop)


RESTORE = Response("restore")
RESTART = Response("restart", back=None)
STOP = Response("stop", stop=True)


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
