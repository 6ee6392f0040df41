"""An experiment's runs as a tidy table and its signals as arrays, for every analysis of more than one run.

Columns of the table, one row per prompt and cell:

===============  ==========================================================================================
cell, press      the cell's label and press
valid            False where a flag takes away the meaning of the cell's runs; a weak baseline does not
removed          measured share of the prompt's cache that was removed; missing if the prefill failed
prompt           the prompt's id; the same prompt has the same id in every cell
tokens           new tokens
ended            ended by itself, with an end token or a stop string
failed           stopped by an error that is not the model's doing
correct, looping, non_termination, wrong_answer, catastrophic    outcomes, see `failures`
onset            new token at which the loop starts, of looping runs; else missing
mode             the failure mode, see `modes`
===============  ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from kvhelpers.errors import InputError
from kvhelpers.generation import EOS, ERROR, STOP_STRING
from kvhelpers.modes import failure_mode
from kvhelpers.paths import relative
from kvhelpers.results import CellResult
from kvhelpers.tables import is_invalid

OUTCOMES = ("looping", "non_termination", "wrong_answer", "catastrophic")


def runs_table(cells: Sequence[CellResult]) -> pd.DataFrame:
    """One row per run, in the order of the cells and prompts."""
    return pd.DataFrame([_row(cell, record) for cell in cells for record in cell.records]).astype({"onset": "Int64"})


def _row(cell: CellResult, record: dict) -> dict:
    failures = record["failures"]
    return {
        "cell": cell.label,
        "press": cell.config["press"],
        "valid": not is_invalid(cell, None),
        "removed": removed_share(record),
        "prompt": record["prompt_id"],
        "tokens": record["n_tokens"],
        "ended": record["stop_reason"] in (EOS, STOP_STRING),
        "failed": record["stop_reason"] == ERROR,
        "correct": record["correct"],
        **{name: failures[name] for name in OUTCOMES},
        "onset": failures["loop_onset"] if failures["looping"] else None,
        "mode": failure_mode(record, cell.data["examples"]),
    }


def removed_share(record: dict) -> float:
    """Measured share of the prompt's cache that was removed; NaN if the prefill failed."""
    return 1 - record["cache"]["kept_tokens"] / record["prompt_tokens"] if record["cache"] else np.nan


def signal_arrays(cells: Sequence[CellResult], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Signals ``[runs, longest run]`` by name, rows as in `runs_table`, NaN after a run's end.

    Raises
    ------
    InputError : a signals file that cannot be read, lacks a column, or does not fit its results.
    """
    longest = max((record["n_tokens"] for cell in cells for record in cell.records), default=0)
    rows: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for _, run in (pair for cell in cells for pair in run_signals(cell, names)):
        for name in names:
            row = np.full(longest, np.nan)
            row[: len(run)] = run[name]
            rows[name].append(row)
    return {name: np.array(values).reshape(-1, longest) for name, values in rows.items()}


def run_signals(cell: CellResult, names: Sequence[str], first: int | None = None) -> Iterator[tuple[dict, pd.DataFrame]]:
    """Each record of a cell (or of its ``first`` ones) with the run's signals, a row per token.

    Raises
    ------
    InputError : as `signal_arrays`.
    """
    signals = cell.signals(["prompt_index", *names])
    by_prompt = dict(tuple(signals.groupby("prompt_index")))
    for record in cell.records[:first]:
        run = by_prompt.get(record["prompt_index"], signals[:0])
        if len(run) != record["n_tokens"]:
            raise InputError(
                f"signals file {relative(cell.path.with_suffix('.parquet'))} has {len(run)} tokens of prompt "
                f"{record['prompt_id']}, its results say {record['n_tokens']}; delete both and run the cell again"
            )
        yield record, run
