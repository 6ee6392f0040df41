"""Results that the repository carries, so that notebooks which read results run anywhere, and others can use them.

A sample is an experiment's finished cells without the columns that take most room or follow from others, and
``runs.parquet``, a table of all its runs. Texts of prompts that are not this project's own are left out.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from kvhelpers.experiment import finished_cells
from kvhelpers.modes import failure_mode
from kvhelpers.paths import results_dir, samples_dir, write_atomic
from kvhelpers.results import CellResult
from kvhelpers.runs import runs_table
from kvhelpers.signals import LISTS
from kvhelpers.tasks import OWN_TASKS

LEFT_OUT = (*LISTS, "entropy_change")


def write_sample(experiment: str) -> Path:
    """Copy an experiment's finished cells to ``data/samples/<experiment>``; return that folder.

    Raises
    ------
    InputError : the experiment has no finished cell, or an unreadable one.
    """
    folder, cells = samples_dir() / experiment, finished_cells(experiment)
    shutil.rmtree(folder, ignore_errors=True)
    for cell in cells:
        target = folder / cell.path.parent.name / cell.path.name
        write_atomic(target.with_suffix(".parquet"), lambda path, cell=cell: _write_signals(cell, path))
        text = json.dumps(_without_texts(cell), ensure_ascii=False, allow_nan=False)
        write_atomic(target, lambda path, text=text: path.write_text(text + "\n"))
    runs = _runs(cells)
    write_atomic(folder / "runs.parquet", lambda path: runs.to_parquet(path, index=False, compression="zstd"))
    definition = results_dir(experiment) / "experiment.yaml"
    if definition.is_file():
        write_atomic(folder / definition.name, lambda path: shutil.copyfile(definition, path))
    return folder


def _write_signals(cell: CellResult, path: Path) -> None:
    table = pq.read_table(cell.path.with_suffix(".parquet"))
    table = table.drop_columns([name for name in LEFT_OUT if name in table.column_names])
    floats = [field.name for field in table.schema if pa.types.is_floating(field.type)]
    others = [name for name in table.column_names if name not in floats]
    pq.write_table(table, path, compression="zstd", compression_level=19, use_dictionary=others, use_byte_stream_split=floats)


def _without_texts(cell: CellResult) -> dict[str, Any]:
    if cell.config["task"] in OWN_TASKS:
        return cell.data
    records = [
        {key: value for key, value in record.items() if key != "question"}
        | {"mode": failure_mode(record, cell.data["examples"])}
        for record in cell.records
    ]
    return cell.data | {"examples": [], "records": records}


def _runs(cells: Sequence[CellResult]) -> pd.DataFrame:
    """`runs.runs_table` with what tells its cells and prompts apart, and the file that holds a run's signals."""
    own = [
        {
            "experiment": cell.config["experiment"],
            "task": cell.config["task"],
            "ratio": cell.config["ratio"],
            "budget": cell.config["budget"],
            "press_kwargs": json.dumps(cell.config["press_kwargs"], sort_keys=True),
            "signals_file": f"{cell.path.parent.name}/{cell.path.with_suffix('.parquet').name}",
            "prompt_index": record["prompt_index"],
            "prompt_tokens": record["prompt_tokens"],
            "kept_tokens": record["cache"]["kept_tokens"] if record["cache"] else None,
            "stop_reason": record["stop_reason"],
            "detected": record["failures"]["loop_detected"] if record["failures"]["looping"] else None,
        }
        for cell in cells
        for record in cell.records
    ]
    table = pd.DataFrame(own).astype({"ratio": float, "budget": "Int64", "kept_tokens": float, "detected": "Int64"})
    return pd.concat([table, runs_table(cells)], axis=1)
