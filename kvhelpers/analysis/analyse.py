"""Everything that is computed from an experiment's signals, once, for the notebook and for the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kvhelpers import frames
from kvhelpers.analysis.discriminators import (
    SIGNALS,
    BestNumbers,
    best_numbers,
    discriminate,
    run_features,
)
from kvhelpers.analysis.entropy_alarms import QUANTILES, Alarms, Direction, judge_alarms, most_telling
from kvhelpers.analysis.onset_alignment import OnsetDifference, align, onset_differences
from kvhelpers.analysis.runs import signal_arrays
from kvhelpers.errors import InputError
from kvhelpers.experiment.results import ConditionResult

ALIGNED = ("entropy", "top1_prob")
FIRST = 16  # tokens of the early discriminators


@dataclass(frozen=True)
class Analysis:
    """The runs (`frames.runs`), their signals (`runs.signal_arrays`), and what they show.

    ``aligned`` by signal (`onset_alignment.align`), ``thresholds`` on high and low entropy
    (`entropy_alarms.judge_alarms`), ``discriminators`` of whole runs and, as ``early``, of their first 16
    tokens (`discriminators.discriminate`). Conditions whose flags take away their meaning take part in the
    runs only, not in what is shown; ``left_out`` names them.
    """

    runs: pd.DataFrame
    signals: Mapping[str, np.ndarray]
    left_out: list[str]
    aligned: Mapping[str, pd.DataFrame]
    thresholds: Sequence[Alarms]
    discriminators: pd.DataFrame
    early: pd.DataFrame

    @property
    def onset_differences(self) -> list[OnsetDifference]:
        """Looping runs against their controls, for each aligned signal."""
        return onset_differences(self.aligned)

    @property
    def alarms(self) -> dict[Direction, Alarms | None]:
        """The most telling threshold on each side."""
        return {direction: most_telling(self.thresholds, direction) for direction in Direction}

    @property
    def best_numbers(self) -> list[BestNumbers]:
        """What tells each outcome best."""
        return best_numbers(self.discriminators, self.early)


def analyse(results: Sequence[ConditionResult], quantiles: Sequence[float] = QUANTILES) -> Analysis:
    """Analyse an experiment's conditions.

    Raises
    ------
    InputError : no ``quantiles``, or one outside (0.5, 1), or a signals file that cannot be read or does not
        fit its results.
    """
    if not isinstance(quantiles, list | tuple) or not quantiles or not all(map(_is_upper_share, quantiles)):
        raise InputError(
            f"quantiles {quantiles!r} is not allowed; it is a list of shares of the uncompressed tokens, "
            "each above 0.5 and below 1"
        )
    runs = frames.runs(results)
    signals = signal_arrays(results, SIGNALS)
    used = runs["valid"].to_numpy()
    valid = runs[used].reset_index(drop=True)
    arrays = {name: values[used] for name, values in signals.items()}
    return Analysis(
        runs=runs,
        signals=signals,
        left_out=list(dict.fromkeys(runs.loc[~runs["valid"], "condition"])),
        aligned={name: align(valid, arrays[name]) for name in ALIGNED},
        thresholds=judge_alarms(valid, arrays["entropy"], quantiles),
        discriminators=discriminate(valid, run_features(valid, arrays)),
        early=discriminate(valid, run_features(valid, arrays, FIRST), by_press=False),
    )


def _is_upper_share(value: object) -> bool:
    return isinstance(value, float) and 0.5 < value < 1
