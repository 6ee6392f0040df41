"""Compress rows' caches while they decode, each as kvpress's `DecodingPress` does with one sequence.

After every ``compression_interval`` new tokens a row's cache is cut to ``target_size`` tokens by the base
press, which sees the hidden states of the tokens since. The rows of a batch have their own rhythms. Random
scores are drawn anew for each cut from the run's seed, so that they do not depend on the batch; kvpress draws
them one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import kvpress
import torch

from kvhelpers.errors import InputError
from kvhelpers.generation.batched_cache import BatchedCache
from kvhelpers.generation.limits import attention_modules
from kvhelpers.generation.prefill import or_reason, plain_layers, seeded
from kvhelpers.models.load import LanguageModel
from kvhelpers.records import Compression


@dataclass
class DecodingRow:
    """A row's own press, the attention inputs ``[1, N, d]`` of each pass by layer since its last cut, and its
    cuts.
    """

    press: kvpress.DecodingPress
    seed: int
    inputs: list[list[torch.Tensor]]
    since: int = 0
    step: int = 0
    compressions: list[Compression] = field(default_factory=list)


class DecodingCompressor:
    """Compresses the rows of one `generate.generate` call while they decode."""

    def __init__(self, lm: LanguageModel, press: kvpress.DecodingPress):
        if not plain_layers(lm.model):
            raise InputError(
                f"press {type(press).__name__!r} needs a model whose layers all attend to the whole context"
            )
        self.lm, self.modules = lm, attention_modules(lm.model)
        self.noted: list[tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]] = []
        with press(lm.model):  # prepares the attention modules as kvpress does; its hooks are gone afterwards
            pass

    def row(self, press: kvpress.DecodingPress, seed: int) -> DecodingRow:
        """A new row's state."""
        return DecodingRow(press, seed, [[] for _ in self.modules])

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note what the attention modules get in the step inside the context."""
        self.noted = []

        def note(module, args, kwargs):
            self.noted.append((kwargs["hidden_states"], kwargs["position_embeddings"]))

        with ExitStack() as stack:
            for module in self.modules:
                stack.callback(module.register_forward_pre_hook(note, with_kwargs=True).remove)
            yield

    @torch.inference_mode()
    def after_step(
        self, row: DecodingRow, slot: int, cache: BatchedCache, position: int, fed: slice, new: int
    ) -> str | None:
        """Take note of a row's step and cut its cache when it is time; return why that failed, or None.

        ``fed`` are the row's tokens in the pass, ``position`` is the last one's place, and ``new`` of them
        are new tokens: 0 where the pass fed a question, which is a step as any other to kvpress, and a cut
        where it has as many tokens as are to stay.
        """
        row.since, row.step = row.since + 1, row.step + new
        for inputs, (hidden_states, _) in zip(row.inputs, self.noted, strict=True):
            inputs.append(hidden_states[:, fed].clone())
        reason, size = None, fed.stop - fed.start
        if row.since >= row.press.compression_interval or size >= row.press.target_size:
            reason = or_reason("while decoding", self._cut, row, slot, cache, position, fed)
            row.since, row.inputs = 0, [[] for _ in self.modules]
        size = row.press.hidden_states_buffer_size
        row.inputs = [inputs[-size:] if size else [] for inputs in row.inputs]
        return reason

    def _cut(self, row: DecodingRow, slot: int, cache: BatchedCache, position: int, fed: slice) -> None:
        before, after = sum(cache.lengths[slot]) / len(self.modules), 0.0
        with seeded(row.seed + row.step, self.lm.device):
            for index, (module, layer) in enumerate(zip(self.modules, cache.layers, strict=True)):
                length = cache.lengths[slot][index]
                rotary = tuple(part[:, fed] for part in self.noted[index][1])
                places = torch.arange(position - (fed.stop - fed.start), position, device=self.lm.device) + 1
                kwargs = {"position_embeddings": rotary, "cache_position": places}
                keys, values = row.press.compress(
                    module,
                    torch.cat(row.inputs[index], dim=1),
                    layer.keys[slot : slot + 1, :, :length],
                    layer.values[slot : slot + 1, :, :length],
                    None,
                    kwargs,
                )
                cache.replace(slot, index, keys.clone(), values.clone())
                after += keys.shape[2] / len(self.modules)
        row.compressions.append(Compression(step=row.step, before=before, after=after))
