"""A press that compresses a prompt as another one does, and then brings some of the evicted positions back.

It is applied to the prompt and the output so far, prefilled together: of the prompt stays what the other
press keeps, and ``rows`` more positions in each head with their full keys and values; of the output
everything. So no cache has to be kept elsewhere for it; a serving system would keep what is evicted on the
host.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from kvpress import ScorerPress, SnapKVPress
from kvpress.presses.base_press import BasePress
from kvpress.utils import compute_n_kept

WANTED, OTHER, RANDOM, OLDEST = CHOICES = ("wanted", "other", "random", "oldest")
QUERIES = 8  # last tokens whose queries choose


@dataclass
class RestoreRowsPress(BasePress):
    """``press`` with its ratio on the first ``n_prompt`` tokens, and ``rows`` evicted positions brought back.

    ``choose`` says which: those that the last `QUERIES` tokens attend to most (``wanted``), those that the
    last tokens of the prompt ``other`` (token ids) would, ``random`` ones, or the ``oldest``.
    """

    press: ScorerPress
    n_prompt: int
    rows: int
    choose: Literal["wanted", "other", "random", "oldest"] = WANTED
    other: tuple[int, ...] = ()
    inputs: dict[int, torch.Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self):
        if not isinstance(self.press, ScorerPress):
            raise TypeError("it needs a press that scores tokens, as its field 'press'")
        if self.choose not in CHOICES or (self.choose == OTHER) != bool(self.other):
            raise ValueError(
                f"choose {self.choose!r} does not fit other prompt {len(self.other)} tokens long"
            )
        if self.rows < 0 or self.n_prompt < 1:
            raise ValueError(f"rows {self.rows} or n_prompt {self.n_prompt} is too small")

    @property
    def compression_ratio(self) -> float:
        """That of the press, of the prompt."""
        return self.press.compression_ratio

    def post_init_from_model(self, model):
        self.press.post_init_from_model(model)
        if self.other:
            self._note_other(model)

    @torch.no_grad()
    def _note_other(self, model) -> None:
        """The other prompt's attention inputs of its last tokens, by layer ``[1, QUERIES, d]``."""

        def note(module, args, kwargs):
            self.inputs[module.layer_idx] = kwargs["hidden_states"][:, -QUERIES:]

        modules = [layer.self_attn for layer in model.model.layers]
        hooks = [module.register_forward_pre_hook(note, with_kwargs=True) for module in modules]
        try:
            model(input_ids=torch.tensor([list(self.other)], device=model.device), logits_to_keep=1)
        finally:
            for hook in hooks:
                hook.remove()

    def compress(self, module, hidden_states, keys, values, attentions, kwargs):
        """Keys and values ``[B, G, K, D]`` of the positions that stay, in their order."""
        n, prompt = keys.shape[2], min(self.n_prompt, keys.shape[2])
        stays = torch.ones(keys.shape[:3], dtype=torch.bool, device=keys.device)
        stays[..., :prompt] = self._kept(module, hidden_states, keys, values, kwargs, prompt)
        evicted = ~stays[..., :prompt]
        rows = min(self.rows, int(evicted[0, 0].sum()))
        if rows:
            scores = self._scores(module, hidden_states, keys, kwargs)[..., :prompt]
            back = scores.masked_fill(~evicted, -torch.inf).topk(rows, dim=-1).indices
            stays[..., :prompt].scatter_(2, back, True)
        count = int(stays[0, 0].sum())
        places = torch.arange(n, device=keys.device).expand_as(stays)[stays].view(*stays.shape[:2], count)
        index = places[..., None].expand(-1, -1, -1, keys.shape[3])
        return keys.gather(2, index).contiguous(), values.gather(2, index).contiguous()

    def _kept(self, module, hidden_states, keys, values, kwargs, prompt) -> torch.Tensor:
        """What the press keeps of the prompt ``[B, G, prompt]``."""
        part = kwargs | {"position_embeddings": tuple(x[:, :prompt] for x in kwargs["position_embeddings"])}
        keys, values = keys[:, :, :prompt], values[:, :, :prompt]
        scores = self.press.score(module, hidden_states[:, :prompt], keys, values, None, part)
        n_kept = compute_n_kept(prompt, self.press.compression_ratio)
        kept = torch.zeros(keys.shape[:3], dtype=torch.bool, device=keys.device)
        return kept.scatter_(2, scores.topk(n_kept, dim=-1).indices, True)

    def _scores(self, module, hidden_states, keys, kwargs) -> torch.Tensor:
        """How much each position is to come back, ``[B, G, K]``."""
        if self.choose == RANDOM:
            return torch.rand(keys.shape[:3]).to(keys.device)
        if self.choose == OLDEST:
            return -torch.arange(keys.shape[2], device=keys.device, dtype=torch.float32).expand(
                keys.shape[:3]
            )
        queries = self.inputs[module.layer_idx] if self.choose == OTHER else hidden_states[:, -QUERIES:]
        n_queries = queries.shape[1]
        # kvpress's own queries and attention, of the last tokens to all others
        weights = SnapKVPress.compute_window_attention(
            module, queries, keys, n_queries, kwargs["position_embeddings"]
        )
        groups, heads = keys.shape[1], weights.shape[1]
        by_group = weights.mean(2).view(keys.shape[0], groups, heads // groups, -1).mean(2)
        return torch.nn.functional.pad(by_group, (0, n_queries))
