"""A run on its way: what it has generated, what is known of its cache, and what watches it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import kvpress
import numpy as np

from kvhelpers.generation.decoding_press import DecodingRow
from kvhelpers.generation.drafts import Drafter
from kvhelpers.generation.requests import Generation, Request
from kvhelpers.generation.token_signals import TOP, entropy_change
from kvhelpers.generation.watch import MOST_ACTIONS, Acted, Action, Watcher
from kvhelpers.records import CANARY, CHANGE, LISTS, SCALARS, CacheReport, Drafting, StopReason

NAMED = (*SCALARS, *CANARY)
# signals of a token that no distribution chose
MISSING = (
    np.full(len(SCALARS), np.nan, np.float32),
    np.full(len(CANARY), np.nan, np.float32),
    np.full(TOP, np.nan, np.float32),
    np.zeros(TOP, np.int64),
)


@dataclass(eq=False)
class Row:
    """A run on its way: the request and its place in the call, what is known of its cache, and what it has
    generated.

    ``press`` is that of its next prefill; ``pending`` are the tokens that its compressed cache is fed next,
    before a token is chosen: those behind the request's ``context``. Its cache counts positions from
    ``shift`` places further on. ``drafter`` guesses its next tokens, or is None; ``steps`` hold
    each token's signals: scalars, canary, top log-probabilities and their token ids. ``watcher`` watches it,
    ``action`` is what it asks for now, and ``acted`` what was done. ``thinking`` is whether a model's
    thoughts are open, as far as `choose` has looked, and ``begins`` the token in which its answer begins;
    None where it has not, or tokens were taken back.
    """

    index: int
    request: Request
    started: float
    press: kvpress.BasePress | None
    watcher: Watcher | None = None
    cache: CacheReport | None = None
    pending: list[int] = field(default_factory=list)
    shift: int = 0
    decoding: DecodingRow | None = None
    drafter: Drafter | None = None
    passes: int = 0
    drafted: int = 0
    accepted: int = 0
    tokens: list[int] = field(default_factory=list)
    steps: list[tuple[np.ndarray, ...]] = field(default_factory=list)
    action: Action | None = None
    acted: list[Acted] = field(default_factory=list)
    thinking: bool | None = None
    begins: int | None = None
    stop_reason: StopReason | None = None
    error: str | None = None

    @classmethod
    def of(cls, index: int, request: Request, started: float) -> Row:
        """A run that begins; what watches it may act before its prefill."""
        row = cls(index, request, started, request.press, request.watch and request.watch())
        row.look()
        if row.action is not None:
            row.act()
        return row

    @property
    def position(self) -> int:
        """Place in the prompt and its answer, from 0, of the token that is fed next, or the first of them."""
        return len(self.request.token_ids) + len(self.tokens) - (len(self.pending) or 1)

    @property
    def past(self) -> list[int]:
        """The prompt and the output so far."""
        return [*self.request.token_ids, *self.tokens]

    @property
    def compressed(self) -> list[int]:
        """What the next prefill puts under the press: the prompt and the output so far, or the context."""
        return self.past[: self.request.context]

    def take(self, token: int, signals: tuple[np.ndarray, ...]) -> None:
        """Go on by a token."""
        self.tokens.append(token)
        self.steps.append(signals)
        if self.drafter:
            self.drafter.append(token)

    def look(self) -> None:
        """Let what watches the run see its last token."""
        if self.watcher is None:
            return
        signals = None
        if self.steps:
            scalars, canary, *_ = self.steps[-1]
            signals = dict(zip(NAMED, (*scalars, *canary), strict=True))
        self.action = self.watcher.look(self.tokens, signals)
        if self.action is not None and self.action.stop:
            self.acted.append(Acted(self.action.name, len(self.tokens), len(self.tokens)))
            self.action, self.stop_reason = None, StopReason.GUARD

    def act(self) -> None:
        """Take back what the action does not keep; a prefill of `past` under the row's new press follows.

        Raises
        ------
        ValueError : it keeps more tokens than there are.
        """
        action, self.action = self.action, None
        if not 0 <= action.keep <= len(self.tokens):
            raise ValueError(f"{action.name} keeps {action.keep} of {len(self.tokens)} tokens")
        if len(self.acted) == MOST_ACTIONS:
            self.fail(f"what watches the run acted more than {MOST_ACTIONS} times")
            return
        discarded = tuple(self.tokens[action.keep :])
        self.acted.append(Acted(action.name, len(self.tokens), action.keep, discarded))
        kept, steps = self.tokens[: action.keep], self.steps[: action.keep]
        self.tokens, self.steps, self.press = [], [], action.press
        self.thinking, self.begins = None, None
        if self.drafter:
            self.drafter = Drafter(self.request.token_ids)
        for token, signals in zip(kept, steps, strict=True):
            self.take(token, signals)
        for token in action.then:
            self.take(token, MISSING)

    def prefilled(self, report: CacheReport) -> None:
        """Note what the prefill left: of the prompt, or of what an action kept; or of the context, whose
        question is whole then.
        """
        if self.request.context is not None:
            report = report.model_copy(update={"question_kept": 1.0})
            self.pending = self.past[self.request.context :]
        if self.acted:
            self.acted[-1] = replace(self.acted[-1], cache=report)
        self.cache = self.cache or report

    def count(self, drafted: int, accepted: int) -> None:
        """Count a pass, in which so many drafted tokens were tried and accepted."""
        self.passes, self.drafted = self.passes + 1, self.drafted + drafted
        self.accepted += accepted

    def fail(self, reason: str) -> None:
        """Stop with an error."""
        self.stop_reason, self.error = StopReason.ERROR, reason

    def finish(self, batch_size: int) -> Generation:
        """The run that this row became."""
        return Generation(
            index=self.index,
            token_ids=self.tokens,
            stop_reason=self.stop_reason,
            cache=self.cache,
            seconds=time.monotonic() - self.started,
            batch_size=batch_size,
            signals=self._signals(),
            error=self.error,
            compressions=tuple(self.decoding.compressions) if self.decoding else (),
            drafting=Drafting(passes=self.passes, drafted=self.drafted, accepted=self.accepted),
            acted=tuple(self.acted),
        )

    def _signals(self) -> dict[str, np.ndarray]:
        if not self.steps:
            return {}
        scalars, canary, logprobs, ids = (np.stack(column) for column in zip(*self.steps, strict=True))
        signals = {name: scalars[:, column] for column, name in enumerate(SCALARS)}
        signals[CHANGE] = entropy_change(signals["entropy"])
        signals |= {name: canary[:, column] for column, name in enumerate(CANARY)}
        return signals | dict(zip(LISTS, (logprobs, ids.astype(np.int32)), strict=True))
