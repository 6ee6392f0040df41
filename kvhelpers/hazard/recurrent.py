"""A small recurrent network on the same features, beside the logistic hazard: does one that reads the tokens
in their order tell more than rolling statistics do?

A gated recurrent unit (Cho et al. 2014, https://arxiv.org/abs/1406.1078) reads a run's tokens from the first
one at risk; each token's state gives the log-odds of an onset within the horizon. Size and training are fixed
beforehand, so nothing was chosen on what is reported. It is compared and not stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from kvhelpers.hazard.model import moments, standardized
from kvhelpers.hazard.predictors import SEED, Learned
from kvhelpers.hazard.risk_set import RiskSet

HIDDEN, EPOCHS, RUNS_AT_ONCE = 32, 8, 64
LEARNING_RATE, WEIGHT_DECAY = 3e-3, 1e-4


class RecurrentHazard(Learned):
    """The network; torch is loaded when it learns."""

    def _learn(self, risk: RiskSet, known: np.ndarray, label: np.ndarray) -> None:
        features = risk.columns(self.names)
        self.mean, self.scale = moments(features[known])
        self._train(risk.run, features, np.where(known, label, np.nan))

    def _scores(self, risk: RiskSet) -> np.ndarray:
        import torch

        features, scores = risk.columns(self.names), np.full(len(risk.run), np.nan)
        with torch.inference_mode():
            for places, inside in _batches(risk.run, np.unique(risk.run)):
                logits = self._logits(torch.from_numpy(self._scaled(features[places], inside)))
                scores[places[inside]] = logits.sigmoid().numpy()[inside]
        return scores

    def _train(self, run: np.ndarray, features: np.ndarray, label: np.ndarray) -> None:
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            self.recurrent = torch.nn.GRU(len(self.names), HIDDEN, batch_first=True)
            self.readout = torch.nn.Linear(HIDDEN, 1)
            parameters = [*self.recurrent.parameters(), *self.readout.parameters()]
            optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, weight_decay=WEIGHT_DECAY)
            rng, runs = np.random.default_rng(SEED), np.unique(run[~np.isnan(label)])
            for _ in range(EPOCHS):
                for places, inside in _batches(run, rng.permutation(runs)):
                    wanted = torch.from_numpy(label[places].astype(np.float32))
                    counted = torch.from_numpy(inside) & ~wanted.isnan()
                    if not counted.any():
                        continue
                    logits = self._logits(torch.from_numpy(self._scaled(features[places], inside)))
                    loss = torch.nn.functional.binary_cross_entropy_with_logits(
                        logits[counted], wanted[counted]
                    )
                    optimizer.zero_grad()
                    loss.backward()
                    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                    optimizer.step()

    def _logits(self, features):
        states, _ = self.recurrent(features)
        return self.readout(states)[..., 0]

    def _scaled(self, features: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """Standardized as the logistic hazard's features; zeros beyond a run's end."""
        scaled = standardized(features, self.mean, self.scale)
        return (scaled * inside[..., None]).astype(np.float32)


def _batches(run: np.ndarray, runs: Sequence[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Groups of runs as the places of their tokens, ``[runs, longest]``, and which of them are tokens of the
    run; the others repeat its last one.
    """
    first = np.searchsorted(run, runs)
    length = np.searchsorted(run, runs, side="right") - first
    for start in range(0, len(runs), RUNS_AT_ONCE):
        these = slice(start, start + RUNS_AT_ONCE)
        steps = np.arange(length[these].max())
        inside = steps < length[these, None]
        yield first[these, None] + np.minimum(steps, length[these, None] - 1), inside
