"""Score a run while it is generated, token by token, with the model and the features of the table."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from kvhelpers.errors import InputError
from kvhelpers.experiment.results import ConditionResult
from kvhelpers.hazard.features import NAMES, READS, FeatureStream
from kvhelpers.hazard.model import HazardModel
from kvhelpers.records import Shape

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
                raise InputError(
                    f"the model needs feature {name!r}, which is not known token by token; train one without "
                    "it"
                )
        self.model, self.stream = model, FeatureStream()
        self.columns = [NAMES.index(name) for name in model.names]

    def push(self, token_id: int, signals: Mapping[str, float]) -> float:
        """Take the next token and its signals (`features.READS`); return the probability of an onset within
        the horizon.
        """
        return float(self.model.score(self.stream.push(token_id, signals)[self.columns])[0])


class Cost(Shape):
    """Seconds a token: of scoring here, one run at a time, features included, and of the runs' own
    generation, prefill included.
    """

    scoring: float
    generating: float


def measure_cost(model: HazardModel, results: Sequence[ConditionResult]) -> Cost:
    """Time the scoring of one run of each of the last 20 conditions that have tokens."""
    tokens = scored = 0.0
    with_tokens = [result for result in results if any(record.n_tokens for record in result.records)]
    for result in with_tokens[-TIMED_RUNS:]:
        run = result.signals(["prompt_index", "token_id", *READS])
        run = run[run["prompt_index"] == run["prompt_index"].iloc[0]]
        ids, rows = run["token_id"].tolist(), run[list(READS)].to_dict("records")
        started, scorer = time.perf_counter(), OnlineScorer(model)
        for token, signals in zip(ids, rows, strict=True):
            scorer.push(token, signals)
        scored, tokens = scored + time.perf_counter() - started, tokens + len(ids)
    generated = sum(record.n_tokens for result in results for record in result.records)
    seconds = sum(result.seconds for result in results)
    return Cost(scoring=scored / max(tokens, 1), generating=seconds / max(generated, 1))
