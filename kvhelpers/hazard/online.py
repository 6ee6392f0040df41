"""Score a run while it is generated, token by token, with the model and the features of the table."""

from __future__ import annotations

from collections.abc import Mapping

from kvhelpers.errors import InputError
from kvhelpers.hazard.features import NAMES, FeatureStream
from kvhelpers.hazard.model import HazardModel


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
