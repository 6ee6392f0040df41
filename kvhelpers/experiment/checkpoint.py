"""Write a condition's results: each finished prompt while it runs, the whole at its end.

While a condition runs, each finished prompt lies in ``<stem>.<hash>.partial/<index>.parquet`` beside the
place of its results, signals and record together, so that a killed condition goes on where it was.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kvhelpers.experiment.condition import Condition
from kvhelpers.experiment.identity import identity_hash
from kvhelpers.experiment.results import ConditionResult, result_path
from kvhelpers.paths import write_atomic
from kvhelpers.records import CANARY, CHANGE, LISTS, SCALARS, Record, StopReason

SIGNALS_SCHEMA = pa.schema(
    [(name, pa.int32()) for name in ("prompt_index", "step", "token_id", "char_end")]
    + [(name, pa.float32()) for name in (*SCALARS, CHANGE, *CANARY)]
    + [(LISTS[0], pa.list_(pa.float32())), (LISTS[1], pa.list_(pa.int32()))]
)


class Checkpoint:
    """Finished prompts of a condition that is not finished yet."""

    def __init__(self, condition: Condition):
        path, self.condition = result_path(condition), condition
        self.folder = path.with_name(f"{path.stem}.{identity_hash(condition)[:12]}.partial")

    def save(self, record: Record, tokens: Mapping[str, Sequence]) -> None:
        """Write one prompt's record and its per-token columns: all of the schema but the first two, or none
        without a token.
        """
        n = record.n_tokens
        columns = {"prompt_index": np.full(n, record.prompt_index), "step": np.arange(n)}
        columns |= {name: list(tokens.get(name, [])) for name in SIGNALS_SCHEMA.names[2:]}
        table = pa.table(columns, schema=SIGNALS_SCHEMA)
        table = table.replace_schema_metadata({"record": record.model_dump_json()})
        write_atomic(self._path(record.prompt_index), lambda path: pq.write_table(table, path))

    def forget_errored(self) -> None:
        """Drop prompts that ended in an error, so that a resumed condition tries them again."""
        for record, _ in list(self.load()):
            if record.stop_reason == StopReason.ERROR:
                self._path(record.prompt_index).unlink()

    def finished(self) -> set[int]:
        """Indices of the prompts saved so far."""
        return {int(path.stem) for path in self.folder.glob("[0-9]*.parquet")}

    def _path(self, prompt_index: int) -> Path:
        return self.folder / f"{prompt_index:05d}.parquet"

    def load(self) -> Iterator[tuple[Record, pa.Table]]:
        """Records and signals saved so far, by prompt index."""
        for path in sorted(self.folder.glob("[0-9]*.parquet")):
            table = pq.read_table(path)
            record = Record.model_validate_json(table.schema.metadata[b"record"])
            yield record, table.replace_schema_metadata(None)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def write_json(result: ConditionResult, path: Path | None = None, indent: int | None = 1) -> None:
    """Write a result's JSON, to its own path or another."""
    text = json.dumps(result.model_dump(mode="json"), indent=indent, ensure_ascii=False, allow_nan=False)
    write_atomic(path or result.path, lambda temporary: temporary.write_text(text + "\n"))


def write_result(result: ConditionResult, signals: Sequence[pa.Table]) -> ConditionResult:
    """Write a finished condition, signals first: the JSON's presence means that both are there."""
    table = pa.concat_tables(signals)
    write_atomic(result.signals_path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))
    write_json(result)
    return result
