"""Write a condition's results: each finished prompt while it runs, the whole at its end.

While a condition runs, each finished prompt lies in ``<stem>.<hash>.partial/<index>.parquet`` beside the
place of its results, signals and record together, so that a killed condition goes on where it was.
"""

from __future__ import annotations

import glob
import json
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kvhelpers.errors import InputError
from kvhelpers.experiment.condition import Condition
from kvhelpers.experiment.identity import identity_hash
from kvhelpers.experiment.plain import plain_hash
from kvhelpers.experiment.provenance import code_version
from kvhelpers.experiment.results import ConditionResult, read_result, result_path
from kvhelpers.experiment.seal import sealed
from kvhelpers.experiment.tables import with_condition
from kvhelpers.paths import relative, write_atomic
from kvhelpers.records import CANARY, CHANGE, LISTS, SCALARS, Record, SelfCheck, StopReason

SIGNALS_SCHEMA = pa.schema(
    [(name, pa.int32()) for name in ("prompt_index", "step", "token_id", "char_end")]
    + [(name, pa.float32()) for name in (*SCALARS, CHANGE, *CANARY)]
    + [(LISTS[0], pa.list_(pa.float32())), (LISTS[1], pa.list_(pa.int32()))]
)


# of the metadata
COMMIT, IGNORED, CHECK, SEALED = b"commit", b"ignored_generation_config", b"check", b"seal"


class _Damaged(Exception):
    """What is wrong with a prompt's file."""


class Checkpoint:
    """Finished prompts of a condition that is not finished yet."""

    def __init__(self, condition: Condition):
        path, self.condition, self.hash = result_path(condition), condition, identity_hash(condition)
        self.folder = path.with_name(f"{path.stem}.{self.hash[:12]}.partial")

    def save(
        self,
        record: Record,
        tokens: Mapping[str, Sequence],
        ignored: Mapping[str, Any] | None = None,
        check: SelfCheck | None = None,
    ) -> None:
        """Write one prompt's record and its per-token columns: all of the schema but the first two, or none
        without a token. ``ignored`` and ``check`` are as in `provenance.provenance`.
        """
        n = record.n_tokens
        columns = {"prompt_index": np.full(n, record.prompt_index), "step": np.arange(n)}
        columns |= {name: list(tokens.get(name, [])) for name in SIGNALS_SCHEMA.names[2:]}
        table = pa.table(columns, schema=SIGNALS_SCHEMA)
        made = {b"record": record.model_dump_json(), b"condition": self.hash, COMMIT: code_version()[0] or ""}
        made |= {IGNORED: json.dumps(ignored)} if ignored else {}
        made |= {CHECK: check.model_dump_json()} if check else {}
        table = _sealed(table.replace_schema_metadata(made))
        write_atomic(self._path(record.prompt_index), lambda path: pq.write_table(table, path))

    def forget_errored(self) -> None:
        """Drop damaged prompts and those that ended in an error: a resumed condition tries them again. What a
        killed run of another configuration or version left is named, since it is not used.
        """
        stem = result_path(self.condition).stem
        for other in self.folder.parent.glob(f"{glob.escape(stem)}.*.partial"):
            if other != self.folder:
                warnings.warn(
                    f"{relative(other)} holds prompts of a killed run of another configuration or version, "
                    "which are not used; delete it",
                    stacklevel=2,
                )
        for index, record in self.forget_damaged().items():
            if record.stop_reason == StopReason.ERROR:
                self._path(index).unlink(missing_ok=True)

    def forget_damaged(self, prompt_ids: Sequence[str] | None = None) -> dict[int, Record]:
        """Drop files that are not whole, or whose name, record, condition and prompt do not agree, with a
        warning each; their prompts are run again. Return the records of the others by prompt index.
        ``prompt_ids`` are those of the condition, if known.
        """
        records = {}
        for index in sorted(self.finished()):
            path = self._path(index)
            try:
                record, _ = self._read(path)
                if prompt_ids is not None and record.prompt_id != prompt_ids[index]:
                    raise _Damaged(f"it is of prompt {record.prompt_id}, not {prompt_ids[index]}")
                records[index] = record
            except FileNotFoundError:  # another worker dropped it
                continue
            except _Damaged as damage:
                path.unlink(missing_ok=True)
                warnings.warn(
                    f"{relative(path)} is damaged; prompt {index} is run again ({damage})", stacklevel=2
                )
        return records

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
            except _Damaged as damage:
                raise InputError(
                    f"{relative(self._path(index))} is damaged ({damage}); run the condition again"
                ) from damage

    def _read(self, path: Path) -> tuple[Record, pa.Table]:
        """A prompt's record and signals, with what `commit_of`, `ignored_of` and `check_of` tell in their
        metadata.

        Raises
        ------
        _Damaged : the file is not whole, or of something else.
        OSError : the disk fails.
        """
        try:
            table = pq.read_table(path)
            metadata = table.schema.metadata or {}
            record, of = Record.model_validate_json(metadata[b"record"]), metadata[b"condition"]
            steps = table.select(["prompt_index", "step"]).to_pylist()
        except OSError as error:
            if error.errno is not None:  # the disk's, not the file's
                raise
            raise _Damaged(" ".join(str(error).split())) from error
        except (ValueError, KeyError, TypeError) as error:
            raise _Damaged(" ".join(str(error).split())) from error
        index = int(path.stem)
        if of != self.hash.encode():
            raise _Damaged("it is of another condition")
        if {record.prompt_index} | {row["prompt_index"] for row in steps} != {index}:
            raise _Damaged(f"it is of prompt {record.prompt_index}, not {index}")
        if [row["step"] for row in steps] != list(range(record.n_tokens)):
            raise _Damaged(f"its {len(table)} tokens are not the record's {record.n_tokens}, each once")
        if not table.schema.equals(SIGNALS_SCHEMA) or _sealed(table).schema.metadata != metadata:
            raise _Damaged("it was changed after it was written")
        usual = {COMMIT: b"", IGNORED: b"{}", CHECK: b""}
        kept = {key: metadata.get(key, missing) for key, missing in usual.items()}
        return record, table.replace_schema_metadata(kept)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _sealed(table: pa.Table) -> pa.Table:
    """A prompt's table with the hash of its columns and metadata among these."""
    made = {key: value for key, value in (table.schema.metadata or {}).items() if key != SEALED}
    whole = {key.hex(): value.hex() for key, value in made.items()} | table.to_pydict()
    return table.replace_schema_metadata(made | {SEALED: plain_hash(whole)})


def commit_of(signals: pa.Table) -> str:
    """The commit that ran a prompt, of the signals that `Checkpoint.load` gives; empty without git."""
    return signals.schema.metadata[COMMIT].decode()


def ignored_of(signals: pa.Table) -> dict[str, Any]:
    """The settings that a prompt's run did not follow, as `commit_of`."""
    return json.loads(signals.schema.metadata[IGNORED])


def check_of(signals: pa.Table) -> SelfCheck | None:
    """The check of the model that ran a prompt, of the signals that `Checkpoint.load` gives."""
    check = signals.schema.metadata[CHECK]
    return SelfCheck.model_validate_json(check) if check else None


def write_json(result: ConditionResult, path: Path | None = None, compact: bool = False) -> None:
    """Write a result's JSON with its seal, to its own path or another; its signals lie there already. With
    ``compact`` what a record has not, or as usual, is left out.
    """
    path, data = path or result.path, result.model_dump(mode="json")
    if compact:
        data["records"] = [record.model_dump(mode="json", exclude_defaults=True) for record in result.records]
    data = sealed(data, path.with_suffix(".parquet"))
    space = {"separators": (",", ":")} if compact else {"indent": 1}
    text = json.dumps(data, **space, ensure_ascii=False, allow_nan=False)
    write_atomic(path, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))


def write_result(result: ConditionResult, signals: Sequence[pa.Table]) -> ConditionResult:
    """Write a finished condition, signals first: the JSON's presence means that both are there. Return what
    is on disk.
    """
    table = with_condition(pa.concat_tables(signals).replace_schema_metadata(None), result.condition)
    write_atomic(result.signals_path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))
    write_json(result)
    return read_result(result.path)
