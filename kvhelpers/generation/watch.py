"""What may watch a run while it is generated, and what it may ask for.

A watcher sees each new token with its signals and may return an `Action`. The batch carries it out for that
row alone: the tokens that the action does not keep are taken back, the prompt and what is kept are prefilled
under the action's press, and the row goes on from there at its true position. So a run goes on as
``model.generate`` would go on from that prompt and that output inside ``with press(model):``. What makes a
watcher act is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from kvhelpers.records import CacheReport

if TYPE_CHECKING:
    import kvpress

MOST_ACTIONS = 16  # of one run; a watcher that acts again and again would never let it end


@dataclass(frozen=True)
class Action:
    """How a run is to go on.

    ``keep`` is how many of its new tokens stay; ``then`` are tokens put behind them, which count as output
    and have no signals;
    ``press`` is that of the new cache, None for the full one. With ``stop`` the run ends where it is.
    """

    name: str
    keep: int
    press: kvpress.BasePress | None = None
    then: tuple[int, ...] = ()
    stop: bool = False


@dataclass(frozen=True)
class Acted:
    """An action that was carried out: once the run had ``step`` new tokens, of which ``discarded`` were taken
    back and ``keep`` stayed. ``cache`` is that of the prompt and the output kept, None if the run stopped.
    """

    name: str
    step: int
    keep: int
    discarded: tuple[int, ...] = ()
    cache: CacheReport | None = None


class Watcher(Protocol):
    """Watches one run."""

    def look(self, tokens: Sequence[int], signals: Mapping[str, float] | None) -> Action | None:
        """What to do now, None to go on.

        It is asked before the prefill, without tokens and signals, and after each new token that does not end
        the run. ``tokens`` are all new tokens; ``signals`` those of the last one by name (`records.SCALARS`
        and `records.CANARY`).
        """


MakeWatcher = Callable[[], Watcher]
