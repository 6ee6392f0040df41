"""Greedy generation from compressed caches: many prompts at once, each exactly as if it were alone.

Each prompt is prefilled under its press and then joins a batch that decodes with true positions. A row leaves when it ends
and the next prompt takes its place, long prompts first, so that rows of a like length stand together. In float32 the tokens
are those of ``model.generate`` for that prompt alone inside ``with press(model):``; in half precision rounding depends on
the batch and some runs part ways.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import kvpress
import numpy as np
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from kvhelpers.cachereport import CacheReport
from kvhelpers.canary import Canary
from kvhelpers.decoding import Compression, Compressor, DecodingRow
from kvhelpers.limits import check_limits
from kvhelpers.models import LanguageModel
from kvhelpers.prefill import Prefilled, Prefiller, is_out_of_memory
from kvhelpers.presses import phases
from kvhelpers.recording import recorder_for
from kvhelpers.signals import CANARY, LISTS, SCALARS, canary_signals, entropy_change, token_signals
from kvhelpers.slotcache import SlotCache

EOS, STOP_STRING, MAX_NEW_TOKENS, TIMEOUT, ERROR = "eos", "stop_string", "max_new_tokens", "timeout", "error"
STOP_REASONS = (EOS, STOP_STRING, MAX_NEW_TOKENS, TIMEOUT, ERROR)


@dataclass(frozen=True)
class Generation:
    """One prompt's run.

    ``token_ids`` include the end token when there is one; ``signals`` map each name of `signals` to an array ``[T]`` or
    ``[T, 20]``; ``cache`` is None when the prefill failed; ``error`` says why a run with stop reason ``error`` failed;
    ``compressions`` are the cuts of a press that compresses while decoding.
    """

    index: int
    token_ids: list[int]
    stop_reason: str
    signals: dict[str, np.ndarray]
    cache: CacheReport | None
    seconds: float
    error: str | None = None
    compressions: Sequence[Compression] = ()


@dataclass
class _Row:
    index: int
    prompt: Sequence[int]
    cache: CacheReport | None
    started: float
    tokens: list[int] = field(default_factory=list)
    steps: list[tuple[np.ndarray, ...]] = field(default_factory=list)
    stop_reason: str | None = None
    error: str | None = None
    decoding: DecodingRow | None = None

    def finish(self) -> Generation:
        arrays = [np.stack(column) for column in zip(*self.steps, strict=True)] if self.steps else None
        signals = _named(*arrays) if arrays else {}
        seconds, cuts = time.monotonic() - self.started, self.decoding.compressions if self.decoding else ()
        return Generation(self.index, self.tokens, self.stop_reason, signals, self.cache, seconds, self.error, cuts)


def _named(scalars: np.ndarray, canary: np.ndarray, logprobs: np.ndarray, ids: np.ndarray) -> dict[str, np.ndarray]:
    named = {name: scalars[:, column] for column, name in enumerate(SCALARS)}
    named["entropy_change"] = entropy_change(named["entropy"])
    named |= {name: canary[:, column] for column, name in enumerate(CANARY)}
    return named | dict(zip(LISTS, (logprobs, ids.astype(np.int32)), strict=True))


class _Chooser:
    """Turns logits into each row's next token, its signals, and the reason to stop if there is one."""

    def __init__(self, lm, max_new_tokens, stop_strings, repetition_penalty, timeout_s):
        self.lm, self.max_new_tokens, self.stop_strings, self.timeout_s = lm, max_new_tokens, tuple(stop_strings), timeout_s
        penalized = repetition_penalty != 1.0
        self.penalty = RepetitionPenaltyLogitsProcessor(repetition_penalty) if penalized else None
        self.longest = max((len(lm.tokenizer.encode(s, add_special_tokens=False)) for s in self.stop_strings), default=0)

    @torch.inference_mode()
    def __call__(
        self, rows: list[_Row], logits: torch.Tensor, at: Sequence[int] = (), full: torch.Tensor | None = None
    ) -> None:
        """Append one token to each row from raw float32 logits ``[rows, V]``.

        ``full`` are the full cache's logits of the rows ``at``, for the canary.
        """
        processed = logits
        if self.penalty is not None:
            processed = torch.cat(
                [
                    self.penalty(torch.tensor([[*row.prompt, *row.tokens]], device=logits.device), logits[i : i + 1])
                    for i, row in enumerate(rows)
                ]
            )
        chosen = processed.argmax(-1)
        scalars, *top = token_signals(logits, chosen)
        canary = logits.new_full((len(rows), len(CANARY)), torch.nan)
        if full is not None:
            canary[at] = canary_signals(full, logits[at], chosen[at])
        columns = [part.cpu().numpy() for part in (scalars, canary, *top)]
        for i, (row, token) in enumerate(zip(rows, chosen.tolist(), strict=True)):
            if not np.isfinite(columns[0][i]).all():
                row.stop_reason, row.error = ERROR, f"logits are not finite at new token {len(row.tokens)}"
                continue
            row.tokens.append(token)
            row.steps.append(tuple(part[i] for part in columns))
            row.stop_reason = self._reason(row, token)

    def _reason(self, row: _Row, token: int) -> str | None:
        if token in self.lm.stop_ids:
            return EOS
        if self.stop_strings and self._ends_in_stop_string(row.tokens):
            return STOP_STRING
        if len(row.tokens) >= self.max_new_tokens:
            return MAX_NEW_TOKENS
        if self.timeout_s is not None and time.monotonic() - row.started > self.timeout_s:
            return TIMEOUT
        return None

    def _ends_in_stop_string(self, tokens: list[int]) -> bool:
        # twice the string's own tokens: the model may spell it in smaller pieces
        tail = self.lm.tokenizer.decode(tokens[-2 * self.longest - 2 :])
        return any(string in tail for string in self.stop_strings)


def generate(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    press_for: Callable[[int], kvpress.BasePress | None],
    *,
    max_new_tokens: int,
    batch_size: int,
    seeds: Sequence[int],
    stop_strings: Sequence[str] = (),
    repetition_penalty: float = 1.0,
    timeout_s: float | None = None,
    canary_tokens: int = 0,
) -> Iterator[Generation]:
    """Generate greedily for each prompt, yielding runs as they end (not in the prompts' order).

    Parameters
    ----------
    lm : the model, from `models.load_model`.
    prompts : token ids of each prompt.
    press_for : gives the press for a prompt of so many tokens, or None.
    max_new_tokens : limit per prompt.
    batch_size : rows decoded together; halved whenever memory runs out.
    seeds : one per prompt, for presses that draw random numbers.
    stop_strings : texts that end an answer; the run's text includes the one found.
    repetition_penalty : 1.0 leaves the logits alone. Signals always come from raw logits.
    timeout_s : seconds a prompt may take from its prefill on; None is no limit.
    canary_tokens : after the first new token, compare so many next-token distributions with the full cache's (`canary`). Costs
        the full cache's memory while it lasts. The first new token comes from the full cache anyway.

    Raises
    ------
    InputError : what `limits.check_limits` refuses.
    """
    press = press_for(len(prompts[0])) if prompts else None
    check_limits(lm.model, prompts, press, max_new_tokens)
    choose = _Chooser(lm, max_new_tokens, stop_strings, repetition_penalty, timeout_s)
    decoding = phases(press)[1]
    compressor = Compressor(lm, decoding) if decoding else None
    prefiller, recorder = Prefiller(lm, prompts, canary_tokens > 0), None if compressor else recorder_for(lm.device)
    waiting = deque(sorted(range(len(prompts)), key=lambda index: -len(prompts[index])))
    slots = min(batch_size, len(prompts))
    rows: list[_Row] = []
    cache, canary = SlotCache(lm.model, slots, recorder), Canary(lm.model, slots, recorder)
    while waiting or rows:
        joining, ended, out_of_memory = [], [], None
        try:
            if waiting and len(rows) < slots:
                joining = _next_group(prefiller, waiting, slots - len(rows), prompts, press_for)
                ended = _join(prefiller, choose, compressor, cache, canary, rows, joining, prompts, press_for, seeds)
            else:
                _step(lm, choose, compressor, cache, canary, rows)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            out_of_memory = str(error).splitlines()[0]
        if out_of_memory is not None:  # outside the handler, so that the failed step's tensors are free
            again = list(dict.fromkeys([*(row.index for row in rows), *joining]))
            if slots == 1:
                yield Generation(again.pop(), [], ERROR, {}, None, 0.0, f"out of memory: {out_of_memory}")
            slots = max(1, min(slots, len(again)) // 2)
            waiting.extendleft(reversed(again))
            rows, cache, canary = [], SlotCache(lm.model, slots, recorder), Canary(lm.model, slots, recorder)
            continue
        canary.drop({row.index for row in rows if row.stop_reason is not None or len(row.tokens) > canary_tokens})
        for slot in reversed(range(len(rows))):
            if rows[slot].stop_reason is not None:
                ended.append(rows[slot])
                rows[slot] = rows[-1]
                rows.pop()
                cache.leave(slot)
        for row in ended:
            yield row.finish()


def _step(
    lm: LanguageModel, choose: _Chooser, compressor: Compressor | None, cache: SlotCache, canary: Canary, rows: list[_Row]
) -> None:
    """One more token for each row."""
    tokens = [row.tokens[-1] for row in rows]
    positions = [len(row.prompt) + len(row.tokens) - 1 for row in rows]
    with compressor.watching() if compressor else nullcontext():
        logits = cache.step(lm.model, tokens, positions)
    choose(rows, logits, *canary.step([row.index for row in rows], tokens, positions))
    for slot, (row, position) in enumerate(zip(rows, positions, strict=True)):
        if row.decoding is not None and row.stop_reason is None:
            row.error = compressor.after_step(row.decoding, slot, cache, position)
            row.stop_reason = ERROR if row.error else None


def _next_group(prefiller, waiting, free, prompts, press_for) -> list[int]:
    """Take the next prompts, at most ``free``, that are prefilled together."""
    first = list(waiting)[:free]
    size = prefiller.group_size([prompts[index] for index in first], phases(press_for(len(prompts[first[0]])))[0])
    return [waiting.popleft() for _ in range(size)]


def _join(prefiller, choose, compressor, cache, canary, rows, joining, prompts, press_for, seeds) -> list[_Row]:
    """Prefill a group and let it join ``rows``; return the rows that ended at once."""
    started = time.monotonic()
    group = [list(prompts[index]) for index in joining]
    presses = [phases(press_for(len(prompt))) for prompt in group]
    made = prefiller(group, [prefilling for prefilling, _ in presses], [seeds[index] for index in joining])
    pairs = [(_started(index, prompt, one, started), one) for index, prompt, one in zip(joining, group, made, strict=True)]
    for (row, _), (_, decoding) in zip(pairs, presses, strict=True):
        row.decoding = compressor.row(decoding, seeds[row.index]) if decoding else None
    alive = [(row, one) for row, one in pairs if row.stop_reason is None]
    if alive:
        choose([row for row, _ in alive], torch.stack([one.logits for _, one in alive]))
    for row, one in alive:
        if row.stop_reason is None:
            cache.join(one.cache, one.hidden)
            rows.append(row)
            if one.full is not None:
                canary.join(row.index, one.full)
    return [row for row, _ in pairs if row.stop_reason is not None]


def _started(index: int, prompt: list[int], made: Prefilled | str, started: float) -> _Row:
    if isinstance(made, str):
        return _Row(index, prompt, None, started, stop_reason=ERROR, error=made)
    return _Row(index, prompt, made.report, started)
