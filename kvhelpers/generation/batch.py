"""The rows that decode together, with their caches: who joins, who leaves, and what happens when memory runs
out.
"""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import accumulate

import torch

from kvhelpers.errors import is_out_of_memory
from kvhelpers.generation.batched_cache import BatchedCache
from kvhelpers.generation.choose import Chooser
from kvhelpers.generation.cuda_graphs import recorder_for
from kvhelpers.generation.decoding_press import DecodingCompressor
from kvhelpers.generation.drafts import Drafter, draft_lengths
from kvhelpers.generation.formats import nominal_bytes
from kvhelpers.generation.full_cache import FullCaches
from kvhelpers.generation.passes import Passes
from kvhelpers.generation.prefill import GROUP_TOKENS, Prefilled, Prefiller
from kvhelpers.generation.requests import Generation, Request, Settings
from kvhelpers.generation.rows import Row
from kvhelpers.generation.text_order import in_text_order
from kvhelpers.models.load import LanguageModel
from kvhelpers.presses.kinds import phases, rerotates
from kvhelpers.records import StopReason

ContextKey = tuple[tuple[int, ...], int, int]


def context_key(request: Request) -> ContextKey | None:
    """What requests have in common whose compressed contexts are one and the same; None without a context.
    The press's object counts, which all requests of a call keep alive.
    """
    if request.context is None:
        return None
    return tuple(request.compressed), id(request.press), request.seed


class Batch:
    """The rows of one `generate.generate` call that decode now, their caches, and the prompts that wait.

    ``slots`` is how many rows may stand together; ``cache`` holds the rows' compressed caches and
    ``full_caches``, for the canary, the full ones of rows in their first tokens.
    """

    def __init__(
        self,
        lm: LanguageModel,
        requests: Sequence[Request],
        settings: Settings,
        passes: Passes | None = None,
    ):
        self.lm, self.requests, self.settings = lm, requests, settings
        decoding = next(filter(None, (phases(request.press)[1] for request in requests)), None)
        self.compressor = DecodingCompressor(lm, decoding) if decoding else None
        self.recorder = None if self.compressor else recorder_for(lm.device)
        prompts = [request.compressed for request in requests if request.context is None]
        # several questions on one context need one pass over it
        contexts = {tuple(each.compressed): None for each in requests if each.context is not None}
        keep_full = settings.canary_tokens > 0 or settings.formats.in_order
        self.prefiller = Prefiller(lm, [*prompts, *map(list, contexts)], keep_full, passes)
        self.one_context = len({context_key(request) for request in requests}) == 1
        self.choose = Chooser(lm, settings)
        self.drafts = settings.drafts and decoding is None and settings.repetition_penalty == 1.0
        self.waiting = deque(sorted(range(len(requests)), key=lambda index: -len(requests[index].token_ids)))
        self._clear(min(settings.batch_size, len(requests)))

    def _clear(self, slots: int) -> None:
        """Start again with empty caches of so many slots."""
        self.slots = slots
        self.rows: list[Row] = []
        self.acting: list[Row] = []  # out of their slots, to be prefilled again
        self.joining: list[int] = []  # requests in their prefill
        self.contexts: dict[ContextKey, Prefilled | str] = {}  # what the last prefill left of contexts
        formats = self.settings.formats
        self.cache = BatchedCache(self.lm.model, slots, self.recorder, self.lm.packed, formats)
        self.full_caches = FullCaches(self.lm.model, slots, self.recorder, self.lm.packed)

    @property
    def is_done(self) -> bool:
        """Whether no prompt waits or decodes."""
        return not (self.waiting or self.rows or self.acting)

    def advance(self) -> list[Generation]:
        """Let the next prompts join, or rows that were acted on, if a slot is free, else give each row one
        more token; return the runs that ended.
        """
        out_of_memory = None
        try:
            has_room = (self.waiting or self.acting) and len(self.rows) < self.slots
            has_room = has_room and sum(len(row.pending) for row in self.rows) < GROUP_TOKENS
            ended = self._join() if has_room else self._step()
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            out_of_memory = str(error).splitlines()[0]
        if out_of_memory is not None:  # outside the handler, so that the failed step's tensors are free
            return self._recover(out_of_memory)
        return [row.finish(self.slots) for row in (*ended, *self._leave())]

    def _recover(self, reason: str) -> list[Generation]:
        """Give up kept passes, halve the slots and begin the current prompts again; a prompt that does not
        fit alone fails.
        """
        had_passes = self.prefiller.passes.give_up()
        standing = [row.index for row in (*self.rows, *self.acting)]
        again, failed = list(dict.fromkeys([*standing, *self.joining])), []
        if self.slots == 1 and not had_passes:
            error = f"out of memory: {reason}"
            failed = [Generation(again.pop(), [], StopReason.ERROR, None, 0.0, self.slots, error=error)]
        self.waiting.extendleft(reversed(again))
        self._clear(max(1, min(self.slots, len(again)) // 2))
        return failed

    def _step(self) -> list[Row]:
        """One more token for each row, or more where its drafts are right; none of them leaves here."""
        positions, drafts = [row.position for row in self.rows], self._drafts()
        fed = [row.pending or [row.tokens[-1], *draft] for row, draft in zip(self.rows, drafts, strict=True)]
        places = [position - row.shift for row, position in zip(self.rows, positions, strict=True)]
        with self.compressor.watching() if self.compressor else nullcontext():
            if any(row.pending for row in self.rows):
                asked = [1 + len(draft) for draft in drafts]
                logits = self.cache.step(self.lm.model, fed, places, asked)
            else:
                logits = self.cache.step(self.lm.model, fed, places)
        full = self.full_caches.step([row.index for row in self.rows], fed, positions)
        right = self.choose(self.rows, logits, drafts, *full)
        self.cache.keep([len(row.pending) or n for row, n in zip(self.rows, right, strict=True)])
        for row, draft, n in zip(self.rows, drafts, right, strict=True):
            row.count(len(draft), n - 1)
        if self.compressor:
            self._cut(fed, places)
        for row in self.rows:
            row.pending = []
        return []

    def _cut(self, fed: Sequence[Sequence[int]], positions: Sequence[int]) -> None:
        """Let presses that compress while decoding see the step."""
        ends = accumulate(map(len, fed))
        for slot, (row, tokens, end) in enumerate(zip(self.rows, fed, ends, strict=True)):
            if row.decoding is None or row.stop_reason is not None:
                continue
            place, its = positions[slot] + len(tokens) - 1, slice(end - len(tokens), end)
            reason = self.compressor.after_step(
                row.decoding, slot, self.cache, place, its, 0 if row.pending else 1
            )
            if reason is not None:
                row.fail(reason)

    def _drafts(self) -> list[list[int]]:
        """Each row's guesses of its next tokens; none beside its full cache, which takes them singly."""
        streaks = [row.drafter.streak if row.drafter else 0 for row in self.rows]
        lengths = draft_lengths(streaks, self.lm.device)
        drafts, grouped = [], self.settings.formats.grouped
        for slot, (row, length) in enumerate(zip(self.rows, lengths, strict=True)):
            alone = row.drafter is None or row.pending or row.index in self.full_caches.members
            left = self.settings.max_new_tokens - len(row.tokens) - 1
            if grouped:
                left = min(left, self.cache.room(slot) - 1)
            drafts.append([] if alone else row.drafter.draft(min(length, left)))
        return drafts

    def _join(self) -> list[Row]:
        """Prefill the next prompts and let them join; return the rows that ended at once."""
        rows = self._next_rows()
        self.joining = [row.index for row in rows]
        alive = []
        for row, outcome in zip(rows, self._prefilled(rows), strict=True):
            if isinstance(outcome, str):
                row.fail(outcome)
                continue
            outcome = self._arranged(outcome, row)
            row.prefilled(outcome.report)
            moved = bool(row.pending) and rerotates(row.press)
            row.shift = len(row.compressed) - outcome.cache.get_seq_length() if moved else 0
            _, decoding = phases(copy.deepcopy(row.press))
            row.decoding = self.compressor.row(decoding, row.request.seed) if decoding else None
            if self.drafts and row.drafter is None:
                row.drafter = Drafter(row.request.token_ids)
            alive.append((row, outcome))
        ready = [(row, prefilled.logits) for row, prefilled in alive if not row.pending]
        if ready:
            self.choose([row for row, _ in ready], torch.stack([logits for _, logits in ready]))
        for row, prefilled in alive:
            if row.action is not None:
                self._act(row)
            elif row.stop_reason is None:
                self.cache.join(prefilled.cache, prefilled.masked_keys, self._shared(row, prefilled))
                self.rows.append(row)
                if self.settings.canary_tokens and not row.acted:
                    self.full_caches.join(row.index, prefilled.full)
        self.joining = []
        return [row for row in rows if row.stop_reason is not None]

    def _prefilled(self, rows: Sequence[Row]) -> list[Prefilled | str]:
        """What a prefill leaves of each row, or why it failed. Rows with the same context under the same
        press and seed have one prefill; that of the last rows is remembered for the next ones.
        """
        keys = [None if row.acted else context_key(row.request) for row in rows]
        names = [row.index if key is None else key for row, key in zip(rows, keys, strict=True)]
        known = dict(self.contexts)
        missing = {name: row for name, row in zip(names, rows, strict=True) if name not in known}
        group = []
        for row in missing.values():
            # a copy, since a press that ran out of memory halfway may have kept notes
            prefilling, _ = phases(copy.deepcopy(row.press))
            group.append(Request(row.compressed, prefilling, row.request.seed, question=row.request.question))
        if group:
            again = not any(row.tokens for row in rows)
            known |= dict(zip(missing, self.prefiller(group, again=again), strict=True))
        self.contexts = {key: known[key] for key in keys if key is not None}
        return [known[name] for name in names]

    def _shared(self, row: Row, prefilled: Prefilled) -> int:
        """How many of its first tokens a row shares with all others: of one compressed context all that is in
        every layer.
        """
        if row.request.context is None:
            return prefilled.shared
        masked = any(keys is not None for keys in prefilled.masked_keys)
        if row.acted or masked or not self.one_context or not self.prefiller.plain_layers:
            return 0
        return min(layer.keys.shape[2] for layer in prefilled.cache.layers)

    def _arranged(self, prefilled: Prefilled, row: Row) -> Prefilled:
        """A prefilled row as its formats need it, with the bytes that they take."""
        formats = self.settings.formats
        if formats.in_order and row.press is not None:
            prefilled = in_text_order(prefilled, row.press, formats)
        report = prefilled.report.model_copy(
            update={"nominal_bytes": nominal_bytes(prefilled.cache, formats)}
        )
        return replace(prefilled, report=report)

    def _next_rows(self) -> list[Row]:
        """Take the rows that are prefilled together next, at most as many as there are free slots: those that
        were acted on before prompts that wait.
        """
        free = self.slots - len(self.rows)
        if self.acting:
            size = self._group_size(self.acting[:free])
            rows, self.acting = self.acting[:size], self.acting[size:]
            return rows
        started = time.monotonic()
        first = [Row.of(index, self.requests[index], started) for index in list(self.waiting)[:free]]
        size = self._group_size(first)
        for _ in range(size):
            self.waiting.popleft()
        return first[:size]

    def _group_size(self, rows: Sequence[Row]) -> int:
        prefilling, _ = phases(rows[0].press)
        return self.prefiller.group_size([row.past for row in rows], prefilling)

    def _act(self, row: Row) -> None:
        """Carry out what a row's watcher asks for, up to the prefill."""
        row.act()
        if row.stop_reason is None:
            self.acting.append(row)

    def _leave(self) -> list[Row]:
        """Take the rows that ended or are acted on out of the batch, and full caches that have served out of
        memory.
        """
        limit = self.settings.canary_tokens
        leaving = [row for row in self.rows if row.stop_reason is not None or row.action is not None]
        served = {row.index for row in self.rows if row in leaving or len(row.tokens) > limit}
        self.full_caches.drop(served)
        for slot in reversed(range(len(self.rows))):
            if self.rows[slot] in leaving:
                self.rows[slot] = self.rows[-1]
                self.rows.pop()
                self.cache.leave(slot)
        for row in leaving:
            if row.stop_reason is None:
                self._act(row)
        return [row for row in leaving if row.stop_reason is not None]
