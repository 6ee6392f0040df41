"""Results of a cell on disk: one JSON (config, versions, machine, examples, summary, a record per prompt) and one parquet.

The parquet has a row per new token: prompt_index, step, token_id, char_end (characters of the answer's text up to the token's
end), and the signals.

``data/results/<experiment>/<press>/<model>_<ratio>_<n>p.json`` and ``.parquet``. While a cell runs, each finished prompt
lies in ``<stem>.<hash>.partial/<index>.parquet``, signals and record together, so that a killed cell goes on where it was.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from kvhelpers.config import SCHEMA_VERSION, CellConfig, shared_identity
from kvhelpers.errors import InputError
from kvhelpers.generation import ERROR
from kvhelpers.paths import relative, results_dir, write_atomic
from kvhelpers.presses import NONE
from kvhelpers.signals import CANARY, LISTS, SCALARS

FLOATS = (*SCALARS, "entropy_change", *CANARY)
CELL = {"label": str, "config": dict, "identity": dict, "summary": dict, "records": list}  # what every reader relies on
SIGNALS_SCHEMA = pa.schema(
    [("prompt_index", pa.int32()), ("step", pa.int32()), ("token_id", pa.int32()), ("char_end", pa.int32())]
    + [(name, pa.float32()) for name in FLOATS]
    + [(LISTS[0], pa.list_(pa.float32())), (LISTS[1], pa.list_(pa.int32()))]
)


@dataclass(frozen=True)
class CellResult:
    """A finished cell: its JSON as a dictionary, and where its files lie."""

    data: dict[str, Any]
    path: Path

    @property
    def config(self) -> dict[str, Any]:
        return self.data["config"]

    @property
    def label(self) -> str:
        return self.data["label"]

    @property
    def summary(self) -> dict[str, Any]:
        return self.data["summary"]

    @property
    def records(self) -> list[dict[str, Any]]:
        return self.data["records"]

    def signals(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Per-token signals, one row per new token, with these columns or all.

        Raises
        ------
        InputError : the file cannot be read, or lacks a column.
        """
        path = self.path.with_suffix(".parquet")
        try:
            there = pq.read_schema(path).names
            table = pq.read_table(path, columns=None if columns is None else [name for name in columns if name in there])
        except (OSError, pa.ArrowException) as error:
            raise InputError(
                f"signals file {relative(path)} cannot be read ({error}); delete it and its .json and run the cell again"
            ) from error
        if missing := [name for name in columns or () if name not in there]:
            raise InputError(f"signals file {relative(path)} has no column {missing[0]!r}; it has {', '.join(there)}")
        return table.to_pandas()


def cell_path(config: CellConfig) -> Path:
    """The cell's JSON file."""
    return results_dir(config.experiment) / config.press / f"{config.stem()}.json"


def find_finished(config: CellConfig) -> CellResult | None:
    """The cell's result if it is already there. Cells of an experiment differ in their press only.

    Raises
    ------
    InputError : the file, or the experiment's first cell, belongs to another configuration or schema; nothing is ever
        overwritten or mixed.
    """
    path, identity = cell_path(config), config.identity()
    if path.exists():
        finished = read_cell(path)
        _refuse_unless_same(config, finished, identity)
        return finished
    if others := _cell_paths(config.experiment):  # one of them: `check_cells` looks at all
        _refuse_unless_same(config, read_cell(others[0]), shared_identity(identity))
    return None


def check_cells(config: CellConfig) -> None:
    """Raise InputError unless every finished cell of the experiment differs from this one in its press only."""
    shared = shared_identity(config.identity())
    for cell in read_experiment(config.experiment):
        _refuse_unless_same(config, cell, shared)


def _refuse_unless_same(config: CellConfig, other: CellResult, wanted: dict[str, Any]) -> None:
    found = other.data["identity"]
    changed = ", ".join(f"{key} {found.get(key)!r} → {value!r}" for key, value in wanted.items() if found.get(key) != value)
    if changed:
        raise InputError(
            f"experiment {config.experiment!r} already holds {relative(other.path)} with another configuration ({changed}); "
            "choose another experiment name or delete that file"
        )


def read_cell(path: Path) -> CellResult:
    """Read a cell's JSON. Raises InputError if it is unreadable or of another schema version."""
    try:
        data = json.loads(path.read_text())
        version = data["schema_version"]
        if version == SCHEMA_VERSION and (missing := [key for key in CELL if not isinstance(data.get(key), CELL[key])]):
            raise KeyError(missing[0])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"results file {relative(path)} is no readable cell result ({error!r}); delete it") from error
    if version != SCHEMA_VERSION:
        raise InputError(
            f"results file {relative(path)} has schema version {version!r}; this version reads {SCHEMA_VERSION}: "
            "delete it or choose another experiment name"
        )
    return CellResult(data, path)


def read_experiment(experiment: str, root: Path | None = None) -> list[CellResult]:
    """All finished cells of an experiment below ``root``, ``none`` first, then by press, ratio and file name."""
    cells = map(read_cell, _cell_paths(experiment, root))
    return sorted(cells, key=lambda c: (c.config["press"] != NONE, c.config["press"], c.config["ratio"] or 0, c.path.name))


def _cell_paths(experiment: str, root: Path | None = None) -> list[Path]:
    paths = results_dir(experiment, root).glob("*/*.json")
    return sorted(path for path in paths if not path.name.startswith("."))  # a killed write leaves a hidden file


class Checkpoint:
    """Finished prompts of a cell that is not finished yet."""

    def __init__(self, config: CellConfig):
        path, self.config = cell_path(config), config
        self.folder = path.with_name(f"{path.stem}.{config.hash()[:12]}.partial")

    def save(self, record: dict[str, Any], tokens: Mapping[str, Sequence]) -> None:
        """Write one prompt's record and its per-token columns: all of the schema but the first two, or none without a token."""
        n = record["n_tokens"]
        columns = {"prompt_index": np.full(n, record["prompt_index"]), "step": np.arange(n)}
        columns |= {name: list(tokens.get(name, [])) for name in SIGNALS_SCHEMA.names[2:]}
        table = pa.table(columns, schema=SIGNALS_SCHEMA).replace_schema_metadata({"record": json.dumps(record)})
        write_atomic(self._path(record["prompt_index"]), lambda path: pq.write_table(table, path))

    def forget_failed(self) -> None:
        """Drop prompts that ended in an error, so that a resumed cell tries them again."""
        for record, _ in list(self.load()):
            if record["stop_reason"] == ERROR:
                self._path(record["prompt_index"]).unlink()

    def finished(self) -> set[int]:
        """Indices of the prompts saved so far."""
        return {int(path.stem) for path in self.folder.glob("[0-9]*.parquet")}

    def _path(self, prompt_index: int) -> Path:
        return self.folder / f"{prompt_index:05d}.parquet"

    def load(self) -> Iterator[tuple[dict[str, Any], pa.Table]]:
        """Records and signals saved so far, by prompt index."""
        for path in sorted(self.folder.glob("[0-9]*.parquet")):
            table = pq.read_table(path)
            yield json.loads(table.schema.metadata[b"record"]), table.replace_schema_metadata(None)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def write_cell(config: CellConfig, data: dict[str, Any], signals: list[pa.Table]) -> CellResult:
    """Write a finished cell, signals first: the JSON's presence means that both are there."""
    path = cell_path(config)
    table = pa.concat_tables(signals)
    write_atomic(path.with_suffix(".parquet"), lambda temporary: pq.write_table(table, temporary, compression="zstd"))
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(path, lambda temporary: temporary.write_text(text + "\n"))
    return CellResult(data, path)
