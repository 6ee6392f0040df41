"""Signals of finished runs, one after the other; runs and tokens as tables: `kvhelpers.frames`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from kvhelpers import frames
from kvhelpers.experiment.results import ConditionResult
from kvhelpers.records import Record


def run_signals(
    result: ConditionResult, names: Sequence[str], first: int | None = None
) -> Iterator[tuple[Record, pd.DataFrame]]:
    """Each record of a condition (or of its ``first`` ones) with the run's signals, a row per token.

    Raises
    ------
    InputError : as `frames.tokens`.
    """
    table = frames.tokens([result], names)
    by_prompt = dict(tuple(table.groupby("prompt_index")))
    for record in result.records[:first]:
        yield record, by_prompt.get(record.prompt_index, table[:0])
