"""Each row's next token, its signals, and the reason to stop if there is one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, starmap

import kvpress
import numpy as np
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from kvhelpers.generation.decoding_press import DecodingRow
from kvhelpers.generation.drafts import Drafter
from kvhelpers.generation.requests import Generation, Request, Settings
from kvhelpers.generation.token_signals import canary_signals, entropy_change, token_signals
from kvhelpers.generation.watch import MOST_ACTIONS, Acted, Action, Watcher
from kvhelpers.models.load import LanguageModel
from kvhelpers.records import CANARY, CHANGE, LISTS, SCALARS, CacheReport, Drafting, StopReason

NAMED = (*SCALARS, *CANARY)
SIGNAL_ROWS = 32  # tokens whose signals are computed together: what they need for a while stays in the caches


@dataclass(eq=False)
class Row:
    """A run on its way: the request and its place in the call, what is known of its cache, and what it has
    generated.

    ``press`` is that of its next prefill; ``drafter`` guesses its next tokens, or is None; ``steps`` hold
    each token's signals: scalars, canary, top log-probabilities and their token ids. ``watcher`` watches it,
    ``action`` is what it asks for now, and ``acted`` what was done.
    """

    index: int
    request: Request
    started: float
    press: kvpress.BasePress | None
    watcher: Watcher | None = None
    cache: CacheReport | None = None
    decoding: DecodingRow | None = None
    drafter: Drafter | None = None
    passes: int = 0
    drafted: int = 0
    accepted: int = 0
    tokens: list[int] = field(default_factory=list)
    steps: list[tuple[np.ndarray, ...]] = field(default_factory=list)
    action: Action | None = None
    acted: list[Acted] = field(default_factory=list)
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
        """Place of the last token in the prompt and its answer, from 0."""
        return len(self.request.token_ids) + len(self.tokens) - 1

    @property
    def past(self) -> list[int]:
        """The prompt and the output so far."""
        return [*self.request.token_ids, *self.tokens]

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
        ValueError : it keeps more tokens than there are, or puts tokens behind none.
        """
        action, self.action = self.action, None
        if not bool(action.then) <= action.keep <= len(self.tokens):
            raise ValueError(f"{action.name} keeps {action.keep} of {len(self.tokens)} tokens")
        if len(self.acted) == MOST_ACTIONS:
            self.fail(f"what watches the run acted more than {MOST_ACTIONS} times")
            return
        discarded = tuple(self.tokens[action.keep :])
        self.acted.append(Acted(action.name, len(self.tokens), action.keep, discarded))
        kept, steps = self.tokens[: action.keep], self.steps[: action.keep]
        self.tokens, self.steps, self.press = [], [], action.press
        if self.drafter:
            self.drafter = Drafter(self.request.token_ids)
        for token, signals in zip(kept, steps, strict=True):
            self.take(token, signals)
        for token in action.then:
            self.take(token, tuple(_missing(part) for part in self.steps[-1]))

    def prefilled(self, report: CacheReport) -> None:
        """Note what the prefill left: of the prompt, or of what an action kept."""
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


def _missing(signals: np.ndarray) -> np.ndarray:
    """Signals of a token that no distribution chose."""
    return np.full_like(signals, np.nan if signals.dtype.kind == "f" else 0)


def _agreeing(draft: Sequence[int], best: Sequence[int]) -> int:
    """How many of the drafted tokens are those chosen, from the first."""
    pairs = enumerate(zip(draft, best, strict=False))
    return next((place for place, (guess, token) in pairs if guess != token), len(draft))


class Chooser:
    """Turns logits into the rows' next tokens."""

    def __init__(self, lm: LanguageModel, settings: Settings):
        self.lm, self.settings = lm, settings
        self.penalty = None
        if settings.repetition_penalty != 1.0:
            self.penalty = RepetitionPenaltyLogitsProcessor(settings.repetition_penalty)
        # tokens that a stop string may take at most, one a byte
        self.longest = max((len(text.encode()) for text in settings.stop_strings), default=0)

    @torch.inference_mode()
    def __call__(
        self,
        rows: Sequence[Row],
        logits: torch.Tensor,
        drafts: Sequence[Sequence[int]] | None = None,
        compared: Sequence[int] = (),
        full: torch.Tensor | None = None,
    ) -> list[int]:
        """Append to each row the tokens that greedy decoding chooses, until it stops or what watches it acts.

        Parameters
        ----------
        logits : raw float32 ``[tokens, V]``: of each row's last token and of its drafts, row by row.
        drafts : each row's guesses of its next tokens; None where there are none.
        compared : rows, without drafts, of which ``full`` are the full cache's logits, for the canary.

        Returns
        -------
        By row, how many of the tokens that it was fed are right: its last one and its accepted drafts.
        """
        drafts = drafts or [()] * len(rows)
        chosen = self._penalized(rows, logits).argmax(-1)
        best, starts = chosen.tolist(), [0, *accumulate(1 + len(draft) for draft in drafts)]
        right = [1 + _agreeing(draft, best[start:]) for draft, start in zip(drafts, starts, strict=False)]
        kept = [start + place for start, n in zip(starts, right, strict=False) for place in range(n)]
        if len(kept) < len(logits):
            logits, chosen = logits[kept], chosen[kept]
        firsts = [0, *accumulate(right)]
        parts = zip(logits.split(SIGNAL_ROWS), chosen.split(SIGNAL_ROWS), strict=True)
        scalars, *top = (torch.cat(column) for column in zip(*starmap(token_signals, parts), strict=True))
        canary = logits.new_full((len(kept), len(CANARY)), torch.nan)
        if full is not None:
            places = [firsts[row] for row in compared]
            canary[places] = canary_signals(full, logits[places], chosen[places])
        columns = [part.cpu().numpy() for part in (scalars, canary, *top)]
        for row, n, first, start in zip(rows, right, firsts, starts, strict=False):
            for place in range(n):
                if not np.isfinite(columns[0][first + place]).all():
                    row.fail(f"logits are not finite at new token {len(row.tokens)}")
                    break
                token = best[start + place]
                row.take(token, tuple(part[first + place] for part in columns))
                row.stop_reason = self._reason(row, token)
                if row.stop_reason is None:
                    row.look()
                if row.stop_reason is not None or row.action is not None:
                    break
        return right

    def _penalized(self, rows: Sequence[Row], logits: torch.Tensor) -> torch.Tensor:
        if self.penalty is None:
            return logits
        seen = (torch.tensor([row.past], device=logits.device) for row in rows)
        return torch.cat([self.penalty(ids, logits[i : i + 1]) for i, ids in enumerate(seen)])

    def _reason(self, row: Row, token: int) -> StopReason | None:
        limit = self.settings.timeout_s
        if token in self.lm.stop_ids:
            return StopReason.EOS
        if self.settings.stop_strings and self._ends_in_stop_string(row.tokens):
            return StopReason.STOP_STRING
        if len(row.tokens) >= self.settings.max_new_tokens:
            return StopReason.MAX_NEW_TOKENS
        if limit is not None and time.monotonic() - row.started > limit:
            return StopReason.TIMEOUT
        return None

    def _ends_in_stop_string(self, tokens: list[int]) -> bool:
        tail = self.lm.tokenizer.decode(tokens[-self.longest :])
        return any(string in tail for string in self.settings.stop_strings)
