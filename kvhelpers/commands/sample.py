"""Results that the repository carries, so that notebooks which read results run anywhere, and others can use
them.

A sample is an experiment's finished conditions without the columns that take most room or follow from others,
``runs.parquet``, a table of all its runs, and ``records.parquet``, their records with the answers' texts.
Texts of prompts that are not this project's own are left out.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from kvhelpers import frames
from kvhelpers.experiment.checkpoint import write_json
from kvhelpers.experiment.grid import finished_results
from kvhelpers.experiment.results import ConditionResult
from kvhelpers.experiment.tables import (
    CONDITION_SCHEMA,
    records_table,
    with_condition,
)
from kvhelpers.paths import definition_path, guard_path, samples_dir, temporary_beside, write_atomic
from kvhelpers.records import CHANGE, LISTS
from kvhelpers.scoring.failure_modes import failure_mode
from kvhelpers.tasks.load import texts_may_be_shared

LEFT_OUT = (*LISTS, CHANGE)
RUNS = (
    *CONDITION_SCHEMA.names,
    *("signals_file", "prompt_index", "prompt_tokens", "kept_tokens", "stop_reason", "detected", "valid"),
    *("removed", "prompt", "tokens", "ended", "errored", "correct", "looping", "non_termination"),
    *("wrong_answer", "catastrophic", "onset", "mode"),
)  # columns of `frames.runs`, beside those of thinking models
COUNTS = ("prompt_index", "step", "char_end")  # they grow from row to row


def write_sample(experiment: str) -> Path:
    """Copy an experiment's finished conditions, or a study of actions or of a guard, to
    ``data/samples/<experiment>``; return that folder. An earlier sample stays until the new one is whole.

    Raises
    ------
    InputError : the experiment has no finished condition, or an unreadable one.
    """
    folder, study = samples_dir() / experiment, guard_path(experiment)
    if study.is_file():
        write_atomic(folder / study.name, lambda path: shutil.copyfile(study, path))
        return folder
    results = finished_results(experiment)
    temporary = temporary_beside(folder)
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process that had this one's number
    try:
        _write_files(experiment, results, temporary)
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _write_files(experiment: str, results: Sequence[ConditionResult], folder: Path) -> None:
    shared = list(map(_without_texts, results))
    for result in shared:
        target = folder / result.path.parent.name / result.path.name
        write_atomic(target.with_suffix(".parquet"), lambda path, result=result: _write_signals(result, path))
        write_json(result, target, compact=True)
    records = records_table(shared)
    write_atomic(folder / "records.parquet", lambda path: _write_compressed(records, path))
    runs = frames.runs(results)
    runs = runs[[*RUNS, *(name for name in frames.THINKING if name in runs)]]
    write_atomic(folder / "runs.parquet", lambda path: runs.to_parquet(path, index=False, compression="zstd"))
    definition = definition_path(experiment)
    if definition.is_file():
        write_atomic(folder / definition.name, lambda path: shutil.copyfile(definition, path))


def _write_signals(result: ConditionResult, path: Path) -> None:
    table = result.read_signals()
    table = table.drop_columns([name for name in LEFT_OUT if name in table.column_names])
    encoding = {field.name: "BYTE_STREAM_SPLIT" for field in table.schema if field.type == pa.float32()}
    encoding |= dict.fromkeys(COUNTS, "DELTA_BINARY_PACKED")
    table = with_condition(table, result.condition)
    repeated = [name for name in table.column_names if name not in encoding]
    _write_compressed(table, path, use_dictionary=repeated, column_encoding=encoding)


def _write_compressed(table: pa.Table, path: Path, **encoding: object) -> None:
    pq.write_table(table, path, compression="zstd", compression_level=19, **encoding)


def _without_texts(result: ConditionResult) -> ConditionResult:
    if texts_may_be_shared(result.condition.task):
        return result
    records = tuple(
        record.model_copy(update={"question": None, "mode": failure_mode(record, result.examples)})
        for record in result.records
    )
    return result.model_copy(update={"examples": (), "records": records})
