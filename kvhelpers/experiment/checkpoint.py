"""Write a condition's results: each finished prompt while it runs, the whole at its end.

While a condition runs, each finished prompt lies in ``<stem>.<hash>.partial/<index>.parquet`` beside the
place of its results, signals and record together, so that a killed condition goes on where it was.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kvhelpers.errors import InputError
from kvhelpers.experiment.condition import Condition
from kvhelpers.experiment.identity import identity_hash
from kvhelpers.experiment.results import ConditionResult, read_result, result_path
from kvhelpers.experiment.seal import sealed
from kvhelpers.paths import relative, write_atomic
from kvhelpers.records import CANARY, CHANGE, LISTS, SCALARS, Record, StopReason

SIGNALS_SCHEMA = pa.schema(
    [(name, pa.int32()) for name in ("prompt_index", "step", "token_id", "char_end")]
    + [(name, pa.float32()) for name in (*SCALARS, CHANGE, *CANARY)]
    + [(LISTS[0], pa.list_(pa.float32())), (LISTS[1], pa.list_(pa.int32()))]
)


class Checkpoint:
    """Finished prompts of a condition that is not finished yet."""

    def __init__(self, condition: Condition):
        path, self.condition, self.hash = result_path(condition), condition, identity_hash(condition)
        self.folder = path.with_name(f"{path.stem}.{self.hash[:12]}.partial")

    def save(self, record: Record, tokens: Mapping[str, Sequence]) -> None:
        """Write one prompt's record and its per-token columns: all of the schema but the first two, or none
        without a token.
        """
        n = record.n_tokens
        columns = {"prompt_index": np.full(n, record.prompt_index), "step": np.arange(n)}
        columns |= {name: list(tokens.get(name, [])) for name in SIGNALS_SCHEMA.names[2:]}
        table = pa.table(columns, schema=SIGNALS_SCHEMA)
        table = table.replace_schema_metadata({"record": record.model_dump_json(), "condition": self.hash})
        write_atomic(self._path(record.prompt_index), lambda path: pq.write_table(table, path))

    def forget_errored(self) -> None:
        """Drop prompts that ended in an error, so that a resumed condition tries them again."""
        self.forget_damaged()
        for record, _ in list(self.load()):
            if record.stop_reason == StopReason.ERROR:
                self._path(record.prompt_index).unlink()

    def forget_damaged(self, prompt_ids: Sequence[str] | None = None) -> None:
        """Drop files that cannot be read, or whose name, record, condition and prompt do not agree, with a
        warning each; their prompts are run again. ``prompt_ids`` are those of the condition, if known.
        """
        for index in sorted(self.finished()):
            path = self._path(index)
            try:
                record, _ = self._read(path)
                if prompt_ids is not None and record.prompt_id != prompt_ids[index]:
                    raise ValueError(f"it is of prompt {record.prompt_id}, not {prompt_ids[index]}")
            except FileNotFoundError:  # another worker dropped it
                continue
            except (OSError, ValueError, KeyError, TypeError) as error:
                path.unlink(missing_ok=True)
                reason = " ".join(str(error).split())
                warnings.warn(
                    f"{relative(path)} is damaged; prompt {index} is run again ({reason})", stacklevel=2
                )

    def finished(self) -> set[int]:
        """Indices of the prompts saved so far, by the names of their files."""
        stems = (path.stem for path in self.folder.glob("*.parquet"))
        indices = {int(stem) for stem in stems if re.fullmatch("[0-9]{5}", stem)}
        return {index for index in indices if index < self.condition.n_prompts}

    def _path(self, prompt_index: int) -> Path:
        return self.folder / f"{prompt_index:05d}.parquet"

    def load(self) -> Iterator[tuple[Record, pa.Table]]:
        """Records and signals saved so far, by prompt index.

        Raises
        ------
        InputError : a file that is damaged.
        """
        for index in sorted(self.finished()):
            try:
                yield self._read(self._path(index))
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{relative(self._path(index))} is damaged ({error}); run the condition again"
                ) from error

    def _read(self, path: Path) -> tuple[Record, pa.Table]:
        """A prompt's file. Raises OSError, ValueError, KeyError or TypeError if it is not whole."""
        table = pq.read_table(path)
        metadata = table.schema.metadata or {}
        record = Record.model_validate_json(metadata[b"record"])
        index = int(path.stem)
        if metadata[b"condition"] != self.hash.encode():
            raise ValueError("it is of another condition")
        if record.prompt_index != index or set(table["prompt_index"].to_pylist()) - {index}:
            raise ValueError(f"it is of prompt {record.prompt_index}, not {index}")
        if len(table) != record.n_tokens:
            raise ValueError(f"it has {len(table)} of {record.n_tokens} tokens")
        return record, table.replace_schema_metadata(None)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def write_json(result: ConditionResult, path: Path | None = None, indent: int | None = 1) -> None:
    """Write a result's JSON with its seal, to its own path or another; its signals lie there already."""
    path = path or result.path
    data = sealed(result.model_dump(mode="json"), path.with_suffix(".parquet"))
    text = json.dumps(data, indent=indent, ensure_ascii=False, allow_nan=False)
    write_atomic(path, lambda temporary: temporary.write_text(text + "\n"))


def write_result(result: ConditionResult, signals: Sequence[pa.Table]) -> ConditionResult:
    """Write a finished condition, signals first: the JSON's presence means that both are there. Return what
    is on disk.
    """
    table = pa.concat_tables(signals)
    write_atomic(result.signals_path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))
    write_json(result)
    return read_result(result.path)
