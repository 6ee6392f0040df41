"""The canary: how far the compressed cache's next-token distributions are from the full cache's, in a run's
first tokens.

The reference run stands beside the compressed one. The full cache exists when a prompt has been prefilled. It
is kept for a few new tokens, is fed the same tokens as the compressed one, and goes. Nothing in it reaches
the run's own tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import DynamicCache, PreTrainedModel

from kvhelpers.generation.batched_cache import BatchedCache
from kvhelpers.generation.cuda_graphs import Recorder
from kvhelpers.models.packed import PackedLinears


class FullCaches:
    """Full caches of the rows that are in their first new tokens, stepped beside the compressed ones."""

    def __init__(
        self, model: PreTrainedModel, slots: int, recorder: Recorder | None, packed: PackedLinears | None
    ):
        self.model, self.cache = model, BatchedCache(model, slots, recorder, packed)
        self.members: list[int] = []  # request index of the row in each slot

    def join(self, index: int, full: DynamicCache) -> None:
        """Take the full cache of a request; views are copied."""
        self.cache.join(full, [None] * len(full.layers))
        self.members.append(index)

    def step(
        self, indices: Sequence[int], fed: Sequence[Sequence[int]], positions: Sequence[int]
    ) -> tuple[list[int], torch.Tensor | None]:
        """Feed the same tokens, the first at these positions, to the full caches.

        Returns which rows of the step have a full cache, and float32 raw logits ``[those rows, V]`` of the
        full caches after the last token.
        """
        if not self.members:
            return [], None
        compared = [list(indices).index(member) for member in self.members]
        tokens, places = [fed[row] for row in compared], [positions[row] for row in compared]
        logits = self.cache.step(self.model, tokens, places, [1] * len(compared))
        self.cache.keep([len(each) for each in tokens])
        return compared, logits

    def drop(self, indices: Sequence[int]) -> None:
        """Let go of the full caches of these requests."""
        for slot in reversed(range(len(self.members))):
            if self.members[slot] in indices:
                self.members[slot] = self.members[-1]
                self.members.pop()
                self.cache.leave(slot)
