"""Each row's next token, its signals, and the reason to stop if there is one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import accumulate, starmap

import numpy as np
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from kvhelpers.generation.requests import Settings
from kvhelpers.generation.rows import Row
from kvhelpers.generation.token_signals import canary_signals, token_signals
from kvhelpers.models.load import LanguageModel
from kvhelpers.records import CANARY, StopReason
from kvhelpers.tasks.thinking import is_thinking

SIGNAL_ROWS = 32  # tokens whose signals are computed together: what they need for a while stays in the caches

BLANK = 64  # tokens of white space that may stand between thoughts and an answer


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
        # tokens that a stop string or a tag may take at most, one a byte
        looked_for = (*settings.stop_strings, *(settings.think_tags or ()))
        self.longest = max((len(text.encode()) for text in looked_for), default=0)
        self.longest += BLANK if settings.think_tags else 0

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
                if np.isnan(columns[0][first + place]).any():  # -inf is a token that cannot be chosen
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
        if self.settings.stop_strings and self._ends_in_stop_string(row):
            return StopReason.STOP_STRING
        if len(row.tokens) >= self.settings.max_new_tokens:
            return StopReason.MAX_NEW_TOKENS
        if limit is not None and time.monotonic() - row.started > limit:
            return StopReason.TIMEOUT
        return None

    def _ends_in_stop_string(self, row: Row) -> bool:
        """Whether an answer, which begins behind a thinking model's thoughts and the white space after them,
        ends in a stop string. White space there may be long, so where it begins is noted.
        """
        tags, known = self.settings.think_tags, row.thinking is not None
        tail = self.lm.tokenizer.decode(row.tokens[-self.longest :] if known else row.tokens)
        if not known or (tags is not None and any(tag in tail for tag in tags)):
            whole = self.lm.tokenizer.decode(row.tokens)
            row.thinking = is_thinking(whole, tags, row.request.thinking)
        if row.thinking:
            row.begins = None
            return False
        if tags is not None and (row.begins is None or len(row.tokens) - self.longest <= row.begins):
            _, closed, behind = self.lm.tokenizer.decode(row.tokens).rpartition(tags[1])
            tail = behind.lstrip() if closed or row.request.thinking else behind
            if row.begins is None and tail:
                row.begins = len(row.tokens) - 1
        return any(string in tail for string in self.settings.stop_strings)
