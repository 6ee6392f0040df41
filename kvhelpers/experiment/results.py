"""A condition's results on disk, read and checked: one JSON and one parquet.

``data/results/<experiment>/<press>/<model>_<ratio>_<n>p.json`` and ``.parquet``; in
``scratch`` with a hash behind ``p``. The JSON holds what
`ConditionResult` names. The parquet has a row per new token: the condition's columns (`tables`),
prompt_index, step, token_id, char_end (characters of the answer's text up to the token's end), and the
signals of `records`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from kvhelpers import own
from kvhelpers.errors import InputError
from kvhelpers.experiment.condition import GRID_KEYS, SCRATCH, Condition
from kvhelpers.experiment.identity import (
    FILES,
    LATER,
    SCHEMA_VERSION,
    hash_of,
    identity,
    identity_hash,
    shared_identity,
)
from kvhelpers.experiment.seal import SEAL, SIGNALS, changed_parts, file_hash
from kvhelpers.paths import relative, results_dir
from kvhelpers.records import Example, Provenance, Record, Shape, Summary
from kvhelpers.scoring.flags import INVALIDATING, baseline_is_weak

PREVIOUS = 4  # schema version whose results `commands.rescore` brings over
# what an identity may not name
USUAL = {key: value for key, value in LATER.items() if key not in GRID_KEYS} | dict.fromkeys(FILES)
SCRATCH_STEM = re.compile(r"_[0-9a-f]{8}$")
HASHED = {  # parts of an identity that nobody can read
    "model_source": "the model's files",
    "data": "the data",
    "template_sha256": "the prompt template",
    "examples": "the examples' file",
}
MEND = "restore it, or delete it and its twin and run the condition again"


class ConditionResult(Shape):
    """A finished condition, and where its files lie.

    ``identity`` is what determined the tokens (`identity.identity`), ``provenance`` who made them where,
    ``seconds`` how long its prompts took, the sum over all workers, ``seal`` tells whether the files were
    changed (`seal`; None before it is written).
    """

    schema_version: Literal[5] = SCHEMA_VERSION
    label: str
    condition: Condition
    condition_hash: str
    identity: dict[str, Any]
    provenance: Provenance
    finished: str
    seconds: float
    examples: tuple[Example, ...]
    summary: Summary
    records: tuple[Record, ...]
    seal: dict[str, Any] | None = Field(default=None, exclude=True)
    path: Path = Field(exclude=True)

    @property
    def signals_path(self) -> Path:
        return self.path.with_suffix(".parquet")

    @property
    def cuts_while_decoding(self) -> bool:
        """Whether a run's cache was compressed again after the prefill."""
        return any(record.compressions for record in self.records)

    @property
    def attn(self) -> str:
        """The attention of its prefills, where it was left to the model too."""
        check = self.provenance.self_check
        return self.identity["attn"] if check is None else check.attn

    @property
    def is_invalid(self) -> bool:
        """Whether a flag takes away the meaning of at least half of the runs, whatever the baseline."""
        return _takes_meaning(self.summary.flags, self.summary.n)

    def signals(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Per-token signals, one row per new token, with these columns or all. Raises InputError as
        `read_signals`.
        """
        return self.read_signals(columns).to_pandas()

    def read_signals(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The signals as they are on disk, with these columns or all.

        Raises
        ------
        InputError : the file cannot be read, was changed after it was written, or lacks a column.
        """
        path = self.signals_path
        try:
            if self.seal and self.seal[SIGNALS] != file_hash(path):
                raise InputError(
                    f"signals file {relative(path)} was changed after it was written, or belongs to another "
                    f"condition; {MEND}"
                )
            there = pq.read_schema(path).names
            wanted = None if columns is None else [name for name in columns if name in there]
            table = pq.read_table(path, columns=wanted)
        except (OSError, pa.ArrowException) as error:
            raise InputError(
                f"signals file {relative(path)} cannot be read ({error}); delete it and its .json and run "
                "the condition again"
            ) from error
        if missing := [name for name in columns or () if name not in there]:
            raise InputError(
                f"signals file {relative(path)} has no column {missing[0]!r}; it has {', '.join(there)}"
            )
        return table


def find_baseline(
    results: Sequence[ConditionResult], like: ConditionResult | None = None
) -> ConditionResult | None:
    """The first uncompressed condition, if there is one; of those whose prompts are made as ``like``'s, if
    that is given.
    """
    for result in results:
        same = like is None or result.condition.setting == like.condition.setting
        if result.condition.is_baseline and same:
            return result
    return None


def flags_of(result: ConditionResult, baseline: ConditionResult | None) -> dict[str, int]:
    """A condition's flags with the number of runs they concern; a weak baseline concerns all runs."""
    flags = dict(result.summary.flags)
    if baseline is not None and baseline_is_weak(baseline.summary.accuracy.count):
        flags["weak_baseline"] = result.summary.n
    return flags


def is_invalid(result: ConditionResult, baseline: ConditionResult | None) -> bool:
    """Whether a flag takes away the meaning of at least half of the runs, beside this baseline."""
    return _takes_meaning(flags_of(result, baseline), result.summary.n)


def _takes_meaning(flags: dict[str, int], n: int) -> bool:
    return any(name in INVALIDATING and 2 * count >= n for name, count in flags.items())


def result_path(condition: Condition) -> Path:
    """The condition's JSON file. In `condition.SCRATCH`, where any parameter may change, it is named after
    all of them.
    """
    whole = identity_hash(condition) if condition.experiment == SCRATCH else ""
    return results_dir(condition.experiment) / _place(condition, whole)


def _place(condition: Condition, condition_hash: str) -> str:
    """A condition's file below its experiment's folder."""
    end = f"_{condition_hash[:8]}" if condition.experiment == SCRATCH else ""
    return f"{own.short(condition.press)}/{condition.stem()}{end}.json"


def find_finished(condition: Condition) -> ConditionResult | None:
    """The condition's result if it is already there. Conditions of an experiment differ in their press only.

    Raises
    ------
    InputError : the file, or the experiment's first condition, belongs to another configuration or schema;
        nothing is ever overwritten or mixed.
    """
    path, wanted = result_path(condition), identity(condition)
    if path.exists():
        finished = read_result(path)
        _refuse_unless_same(condition, finished, wanted)
        if condition.experiment == SCRATCH:
            os.utime(path)  # it was asked for last
        return finished
    if condition.experiment == SCRATCH:
        return None
    if others := result_paths(condition.experiment):  # one of them: `check_same_experiment` looks at all
        _refuse_unless_same(condition, read_result(others[0]), shared_identity(wanted))
    return None


def check_same_experiment(condition: Condition) -> None:
    """Raise InputError unless every finished condition of the experiment differs from this one in its press
    only.
    """
    if condition.experiment == SCRATCH:
        return
    shared = shared_identity(identity(condition))
    for result in read_experiment(condition.experiment):
        _refuse_unless_same(condition, result, shared)


def _refuse_unless_same(condition: Condition, other: ConditionResult, wanted: dict[str, Any]) -> None:
    there = USUAL | other.identity
    changed = [
        f"{HASHED[key]} changed" if key in HASHED else f"{key} {there.get(key)!r} → {value!r}"
        for key, value in (USUAL | wanted).items()
        if there.get(key) != value
    ]
    if changed:
        raise InputError(
            f"experiment {condition.experiment!r} already holds {relative(other.path)} with another "
            f"configuration ({', '.join(changed)}); run it under another experiment name (--name, or the "
            "parameter experiment), or delete that file"
        )


def read_result(path: Path, previous: bool = False) -> ConditionResult:
    """Read a condition's JSON and check its shape; with ``previous`` also one of schema 4, whose answers are
    still judged as they were then.

    Raises
    ------
    InputError : it is unreadable, not of the shape, of another schema version, or was changed after it was
        written.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        version = data["schema_version"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _unreadable(path, repr(error)) from error
    if version not in ((PREVIOUS, SCHEMA_VERSION) if previous else (SCHEMA_VERSION,)):
        raise _of_another_schema(path, version)
    _refuse_changed(path, data)
    if version == PREVIOUS and isinstance(data.get("identity"), dict):
        data |= {"schema_version": SCHEMA_VERSION, "condition_hash": hash_of(data["identity"])}
    try:
        result = ConditionResult.model_validate(data | {"path": path})
    except ValidationError as error:
        first = error.errors()[0]
        raise _unreadable(path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    _refuse_misplaced(result)
    return result


def _of_another_schema(path: Path, version: object) -> InputError:
    mend = "delete it or choose another experiment name"
    if version == PREVIOUS:
        mend = f"bring it over by python -m kvhelpers rescore {path.parent.parent.name}"
    return InputError(
        f"results file {relative(path)} has schema version {version!r}; this version reads {SCHEMA_VERSION}: "
        f"{mend}"
    )


def _refuse_misplaced(result: ConditionResult) -> None:
    condition = result.condition
    place = f"{condition.experiment}/{_place(condition, result.condition_hash)}"
    if place != "/".join(result.path.parts[-3:]):
        raise InputError(f"results file {relative(result.path)} belongs to {place}; move it and its twin")
    indices = [record.prompt_index for record in result.records]
    if indices != list(range(condition.n_prompts)):
        raise InputError(
            f"results file {relative(result.path)} has not the records of prompts 0 to "
            f"{condition.n_prompts - 1}, each once; {MEND}"
        )


def _refuse_changed(path: Path, data: dict[str, Any]) -> None:
    if data.get(SEAL) is None:
        raise InputError(f"results file {relative(path)} has lost its {SEAL}; {MEND}")
    if changed := changed_parts(data):
        named = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
        raise InputError(f"results file {relative(path)} was changed after it was written ({named}); {MEND}")


def _unreadable(path: Path, reason: str) -> InputError:
    return InputError(f"results file {relative(path)} is no readable condition result ({reason}); delete it")


def read_experiment(
    experiment: str, root: Path | None = None, previous: bool = False
) -> list[ConditionResult]:
    """All finished conditions of an experiment below ``root``, ``none`` first, then by press, ratio and file
    name; ``previous`` as in `read_result`. Of `condition.SCRATCH` those that belong to what was asked for
    last.
    """

    def place(result: ConditionResult) -> tuple:
        condition = result.condition
        return not condition.is_baseline, condition.press, condition.ratio or 0, result.path.name

    found = (read_result(path, previous) for path in result_paths(experiment, root))
    results = sorted(_asked_last(found) if experiment == SCRATCH else found, key=place)
    for other in results[1:]:
        refuse_mixed(results[0], other)
    return results


def _asked_last(results: Iterable[ConditionResult]) -> list[ConditionResult]:
    """Those that differ from what was asked for last in their press only."""
    newest_first = sorted(results, key=lambda result: result.path.stat().st_mtime, reverse=True)
    shared = [USUAL | shared_identity(result.identity) for result in newest_first]
    return [result for result, one in zip(newest_first, shared, strict=True) if one == shared[0]]


def refuse_mixed(one: ConditionResult, other: ConditionResult) -> None:
    """Raise InputError unless two conditions differ in their press only."""
    here, there = (USUAL | shared_identity(result.identity) for result in (one, other))
    if differing := [key for key in {**here, **there} if here.get(key) != there.get(key)]:
        key = differing[0]
        raise InputError(
            f"results file {relative(other.path)} is of another configuration than {relative(one.path)} "
            f"({key} {here.get(key)!r} → {there.get(key)!r}); move it to another experiment"
        )


def result_paths(experiment: str, root: Path | None = None) -> list[Path]:
    """Where the JSON files of an experiment's finished conditions below ``root`` lie."""
    paths = results_dir(experiment, root).glob("*/*.json")
    paths = (path for path in paths if not path.name.startswith("."))  # killed writes leave hidden files
    return sorted(path for path in paths if experiment != SCRATCH or SCRATCH_STEM.search(path.stem))
