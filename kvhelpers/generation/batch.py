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
from kvhelpers.generation.prefill import Prefilled, Prefiller
from kvhelpers.generation.requests import Generation, Request, Settings
from kvhelpers.generation.rows import Row
from kvhelpers.generation.text_order import in_text_order
from kvhelpers.models.load import LanguageModel
from kvhelpers.presses.kinds import phases
from kvhelpers.records import StopReason


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
        prompts = [request.token_ids for request in requests]
        keep_full = settings.canary_tokens > 0 or settings.formats.in_order
        self.prefiller = Prefiller(lm, prompts, keep_full, passes)
        self.choose = Chooser(lm, settings)
        self.drafts = settings.drafts and decoding is None and settings.repetition_penalty == 1.0
        self.waiting = deque(sorted(range(len(requests)), key=lambda index: -len(prompts[index])))
        self._clear(min(settings.batch_size, len(requests)))

    def _clear(self, slots: int) -> None:
        """Start again with empty caches of so many slots."""
        self.slots = slots
        self.rows: list[Row] = []
        self.acting: list[Row] = []  # out of their slots, to be prefilled again
        self.joining: list[int] = []  # requests in their prefill
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
        tokens, positions = [row.tokens[-1] for row in self.rows], [row.position for row in self.rows]
        drafts = self._drafts()
        fed = [[token, *draft] for token, draft in zip(tokens, drafts, strict=True)]
        with self.compressor.watching() if self.compressor else nullcontext():
            logits = self.cache.step(self.lm.model, fed, positions)
        full = self.full_caches.step([row.index for row in self.rows], tokens, positions)
        right = self.choose(self.rows, logits, drafts, *full)
        self.cache.keep(right)
        for row, draft, n in zip(self.rows, drafts, right, strict=True):
            row.count(len(draft), n - 1)
        for slot, (row, position) in enumerate(zip(self.rows, positions, strict=True)):
            if row.decoding is not None and row.stop_reason is None:
                reason = self.compressor.after_step(row.decoding, slot, self.cache, position)
                if reason is not None:
                    row.fail(reason)
        return []

    def _drafts(self) -> list[list[int]]:
        """Each row's guesses of its next tokens; none beside its full cache, which takes them singly."""
        streaks = [row.drafter.streak if row.drafter else 0 for row in self.rows]
        lengths = draft_lengths(streaks, self.lm.device)
        drafts, grouped = [], self.settings.formats.grouped
        for slot, (row, length) in enumerate(zip(self.rows, lengths, strict=True)):
            alone = row.drafter is None or row.index in self.full_caches.members
            left = self.settings.max_new_tokens - len(row.tokens) - 1
            if grouped:
                left = min(left, self.cache.room(slot) - 1)
            drafts.append([] if alone else row.drafter.draft(min(length, left)))
        return drafts

    def _join(self) -> list[Row]:
        """Prefill the next prompts and let them join; return the rows that ended at once."""
        rows = self._next_rows()
        self.joining = [row.index for row in rows]
        # copies, since a press that ran out of memory halfway may have kept notes
        presses = [phases(copy.deepcopy(row.press)) for row in rows]
        group = [
            Request(row.past, prefilling, row.request.seed, question=row.request.question)
            for row, (prefilling, _) in zip(rows, presses, strict=True)
        ]
        alive = []
        outcomes = self.prefiller(group, again=not any(row.tokens for row in rows))
        for row, (_, decoding), outcome in zip(rows, presses, outcomes, strict=True):
            if isinstance(outcome, str):
                row.fail(outcome)
                continue
            outcome = self._arranged(outcome, row)
            row.prefilled(outcome.report)
            row.decoding = self.compressor.row(decoding, row.request.seed) if decoding else None
            if self.drafts and row.drafter is None:
                row.drafter = Drafter(row.request.token_ids)
            alive.append((row, outcome))
        if alive:
            logits = torch.stack([prefilled.logits for _, prefilled in alive])
            self.choose([row for row, _ in alive], logits)
        for row, prefilled in alive:
            if row.action is not None:
                self._act(row)
            elif row.stop_reason is None:
                self.cache.join(prefilled.cache, prefilled.masked_keys, prefilled.shared)
                self.rows.append(row)
                if self.settings.canary_tokens and not row.acted:
                    self.full_caches.join(row.index, prefilled.full)
        self.joining = []
        return [row for row in rows if row.stop_reason is not None]

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
