"""Score a run while it is generated, token by token, with the model and the features of the table."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from kvhelpers.causal import NAMES, READS, FeatureStream
from kvhelpers.errors import InputError
from kvhelpers.hazard import HazardModel
from kvhelpers.results import CellResult

TIMED_RUNS = 20


class OnlineScorer:
    """The risk of one run, kept up to date.

    Raises
    ------
    InputError : the model was trained on a feature that is not known while a run is generated.
    """

    def __init__(self, model: HazardModel):
        for name in model.names:
            if name not in NAMES:
                raise InputError(f"the model needs feature {name!r}, which is not known token by token; train one without it")
        self.model, self.stream = model, FeatureStream()
        self.columns = [NAMES.index(name) for name in model.names]

    def push(self, token_id: int, signals: Mapping[str, float]) -> float:
        """Take the next token and its signals (`causal.READS`); return the probability of an onset within the horizon."""
        return float(self.model.score(self.stream.push(token_id, signals)[self.columns])[0])


def cost(model: HazardModel, cells: Sequence[CellResult]) -> tuple[float, float]:
    """Seconds a token that scoring takes here, one run at a time, and that the cells' own generation took, prefill included."""
    tokens = scored = 0.0
    for cell in [cell for cell in cells if any(record["n_tokens"] for record in cell.records)][-TIMED_RUNS:]:
        run = cell.signals(["prompt_index", "token_id", *READS])
        run = run[run["prompt_index"] == run["prompt_index"].iloc[0]]
        ids, rows = run["token_id"].tolist(), run[list(READS)].to_dict("records")
        started, scorer = time.perf_counter(), OnlineScorer(model)
        for token, signals in zip(ids, rows, strict=True):
            scorer.push(token, signals)
        scored, tokens = scored + time.perf_counter() - started, tokens + len(ids)
    generated = sum(record["n_tokens"] for cell in cells for record in cell.records)
    return scored / tokens, sum(cell.data["seconds"] for cell in cells) / np.maximum(generated, 1)
