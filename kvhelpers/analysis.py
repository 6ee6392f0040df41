"""Everything that is computed from an experiment's signals, once, for the notebook and for the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kvhelpers.alignment import align
from kvhelpers.discriminators import SIGNALS, discriminate, run_features
from kvhelpers.errors import InputError
from kvhelpers.prediction import HIGH, LOW, QUANTILE, Warnings, warnings
from kvhelpers.results import CellResult
from kvhelpers.runs import runs_table, signal_arrays

ALIGNED = ("entropy", "top1_prob")
FIRST = 16  # tokens of the early discriminators


@dataclass(frozen=True)
class Analysis:
    """The runs (`runs.runs_table`), their signals (`runs.signal_arrays`), and what was found in them.

    ``aligned`` by signal (`alignment.align`), ``warnings`` of high and low entropy (`prediction.warnings`), ``discriminators``
    of whole runs and, as ``early``, of their first 16 tokens (`discriminators.discriminate`). Cells whose flags take away their
    meaning take part in the runs only, not in the findings; ``left_out`` names them.
    """

    runs: pd.DataFrame
    signals: dict[str, np.ndarray]
    left_out: list[str]
    aligned: dict[str, pd.DataFrame]
    warnings: dict[str, Warnings | None]
    discriminators: pd.DataFrame
    early: pd.DataFrame


def analyse(cells: Sequence[CellResult], quantile: float = QUANTILE) -> Analysis:
    """Analyse an experiment's cells.

    Raises
    ------
    InputError : ``quantile`` outside (0.5, 1), or a signals file that cannot be read or does not fit its results.
    """
    if isinstance(quantile, bool) or not isinstance(quantile, int | float) or not 0.5 < quantile < 1:
        raise InputError(
            f"quantile {quantile!r} is not allowed; it is a share of the uncompressed tokens, above 0.5 and below 1"
        )
    runs = runs_table(cells)
    signals = signal_arrays(cells, SIGNALS)
    used = runs["valid"].to_numpy()
    valid = runs[used].reset_index(drop=True)
    arrays = {name: values[used] for name, values in signals.items()}
    return Analysis(
        runs,
        signals,
        list(dict.fromkeys(runs.loc[~runs["valid"], "cell"])),
        {name: align(valid, arrays[name]) for name in ALIGNED},
        {direction: warnings(valid, arrays["entropy"], direction, quantile) for direction in (HIGH, LOW)},
        discriminate(valid, run_features(valid, arrays)),
        discriminate(valid, run_features(valid, arrays, FIRST), by_press=False),
    )
