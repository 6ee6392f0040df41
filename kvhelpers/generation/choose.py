"""Each row's next token, its signals, and the reason to stop if there is one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from kvhelpers.generation.decoding_press import DecodingRow
from kvhelpers.generation.requests import Generation, Request, Settings
from kvhelpers.generation.token_signals import canary_signals, entropy_change, token_signals
from kvhelpers.models.load import LanguageModel
from kvhelpers.records import CANARY, CHANGE, LISTS, SCALARS, CacheReport, StopReason


@dataclass
class Row:
    """A run on its way: the request and its place in the call, what is known of its cache, and what it has
    generated.

    ``steps`` hold each token's signals: scalars, canary, top log-probabilities and their token ids.
    """

    index: int
    request: Request
    started: float
    cache: CacheReport | None = None
    decoding: DecodingRow | None = None
    tokens: list[int] = field(default_factory=list)
    steps: list[tuple[np.ndarray, ...]] = field(default_factory=list)
    stop_reason: StopReason | None = None
    error: str | None = None

    @property
    def position(self) -> int:
        """Place of the last token in the prompt and its answer, from 0."""
        return len(self.request.token_ids) + len(self.tokens) - 1

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
        )

    def _signals(self) -> dict[str, np.ndarray]:
        if not self.steps:
            return {}
        scalars, canary, logprobs, ids = (np.stack(column) for column in zip(*self.steps, strict=True))
        signals = {name: scalars[:, column] for column, name in enumerate(SCALARS)}
        signals[CHANGE] = entropy_change(signals["entropy"])
        signals |= {name: canary[:, column] for column, name in enumerate(CANARY)}
        return signals | dict(zip(LISTS, (logprobs, ids.astype(np.int32)), strict=True))


class Chooser:
    """Turns logits into the rows' next tokens."""

    def __init__(self, lm: LanguageModel, settings: Settings):
        self.lm, self.settings = lm, settings
        self.penalty = None
        if settings.repetition_penalty != 1.0:
            self.penalty = RepetitionPenaltyLogitsProcessor(settings.repetition_penalty)
        lengths = (len(lm.tokenizer.encode(text, add_special_tokens=False)) for text in settings.stop_strings)
        self.longest = max(lengths, default=0)

    @torch.inference_mode()
    def __call__(
        self,
        rows: Sequence[Row],
        logits: torch.Tensor,
        compared: Sequence[int] = (),
        full: torch.Tensor | None = None,
    ) -> None:
        """Append one token to each row from raw float32 logits ``[rows, V]``.

        ``full`` are the full cache's logits of the rows ``compared``, for the canary.
        """
        chosen = self._penalized(rows, logits).argmax(-1)
        scalars, *top = token_signals(logits, chosen)
        canary = logits.new_full((len(rows), len(CANARY)), torch.nan)
        if full is not None:
            canary[compared] = canary_signals(full, logits[compared], chosen[compared])
        columns = [part.cpu().numpy() for part in (scalars, canary, *top)]
        for i, (row, token) in enumerate(zip(rows, chosen.tolist(), strict=True)):
            if not np.isfinite(columns[0][i]).all():
                row.fail(f"logits are not finite at new token {len(row.tokens)}")
                continue
            row.tokens.append(token)
            row.steps.append(tuple(part[i] for part in columns))
            row.stop_reason = self._reason(row, token)

    def _penalized(self, rows: Sequence[Row], logits: torch.Tensor) -> torch.Tensor:
        if self.penalty is None:
            return logits
        seen = (torch.tensor([[*row.request.token_ids, *row.tokens]], device=logits.device) for row in rows)
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
        # twice the string's own tokens: the model may spell it in smaller pieces
        tail = self.lm.tokenizer.decode(tokens[-2 * self.longest - 2 :])
        return any(string in tail for string in self.settings.stop_strings)
