"""Results that the repository carries, without the top-20 lists, so that notebooks which read results run anywhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq

from kvhelpers.experiment import finished_cells
from kvhelpers.paths import results_dir, samples_dir, write_atomic
from kvhelpers.signals import LISTS


def write_sample(experiment: str) -> Path:
    """Copy an experiment's finished cells to ``data/samples/<experiment>``; return that folder.

    Raises
    ------
    InputError : the experiment has no finished cell, or an unreadable one.
    """
    folder = samples_dir() / experiment
    for cell in finished_cells(experiment):
        signals = pq.read_table(cell.path.with_suffix(".parquet")).drop_columns(list(LISTS))
        target = folder / cell.path.parent.name / cell.path.name
        write_atomic(
            target.with_suffix(".parquet"),
            lambda path, table=signals: pq.write_table(table, path, compression="zstd", compression_level=19),
        )
        write_atomic(target, lambda path, source=cell.path: shutil.copyfile(source, path))
    definition = results_dir(experiment) / "experiment.yaml"
    if definition.is_file():
        write_atomic(folder / definition.name, lambda path: shutil.copyfile(definition, path))
    return folder
