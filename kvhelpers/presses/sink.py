"""A press that keeps the attention sink, whatever another press makes of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from kvpress import ScorerPress


@dataclass
class SinkPress(ScorerPress):
    """Scores of another press, with the first ``n_sink`` tokens always kept: as many tokens are kept as
    without it.

    The first tokens draw attention whatever they say (Xiao et al. 2024, https://arxiv.org/abs/2309.17453); a
    press that scores tokens by their use may evict them.
    """

    press: ScorerPress | None = None
    n_sink: int = 4

    def __post_init__(self):
        if not isinstance(self.press, ScorerPress):
            raise TypeError("it needs a press that scores tokens, as its field 'press'")
        super().__post_init__()

    def post_init_from_model(self, model):
        self.press.post_init_from_model(model)

    def score(self, module, hidden_states, keys, values, attentions, kwargs) -> torch.Tensor:
        """Scores ``[B, G, K]``, infinite for the first ``n_sink`` tokens."""
        self.press.compression_ratio = self.compression_ratio
        scores = self.press.score(module, hidden_states, keys, values, attentions, kwargs).clone()
        scores[..., : self.n_sink] = torch.inf
        return scores
