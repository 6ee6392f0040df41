"""Results as tables that others can open together: what tells conditions apart stands in every row, and each
column has one type, whatever a file happens to hold.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from enum import StrEnum
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pyarrow as pa

from kvhelpers.experiment.condition import Condition
from kvhelpers.experiment.results import ConditionResult
from kvhelpers.records import Record, Shape

TEXT = ("experiment", "model", "task", "condition", "press", "press_kwargs", "setting")
CONDITION_SCHEMA = pa.schema(
    [*((name, pa.string()) for name in TEXT), ("ratio", pa.float64()), ("budget", pa.int64())]
)
JSON_ONLY = {"marks"}  # of a record: its keys are the task's, so that it is no column
PLAIN = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def condition_values(condition: Condition) -> dict[str, Any]:
    """What tells a condition's rows from those of others, by the columns of ``CONDITION_SCHEMA``;
    ``press_kwargs`` is JSON text, ``condition`` the label.
    """
    values = {name: getattr(condition, name, None) for name in CONDITION_SCHEMA.names}
    text = json.dumps(condition.press_kwargs, sort_keys=True)
    return values | {"condition": condition.label(), "press_kwargs": text}


def with_condition(table: pa.Table, condition: Condition) -> pa.Table:
    """A condition's table with the columns of ``CONDITION_SCHEMA`` before its others."""
    values = condition_values(condition)
    columns = [pa.repeat(pa.scalar(values[f.name], f.type), len(table)) for f in CONDITION_SCHEMA]
    others = table.drop_columns([name for name in CONDITION_SCHEMA.names if name in table.column_names])
    return pa.table([*columns, *others.columns], pa.schema([*CONDITION_SCHEMA, *others.schema]))


def records_table(results: Sequence[ConditionResult]) -> pa.Table:
    """All records of some conditions, a row per run with the condition's columns before the record's; a part
    of a record is a struct, and any value may be missing. `JSON_ONLY` is left out.
    """
    schema = pa.schema([*CONDITION_SCHEMA, *_arrow_type(Record, JSON_ONLY)])
    rows = [
        condition_values(result.condition) | record.model_dump(mode="json", exclude=JSON_ONLY)
        for result in results
        for record in result.records
    ]
    return pa.Table.from_pylist(rows, schema)


def _arrow_type(annotation: Any, but: Collection[str] = ()) -> pa.DataType:
    """The type of a column that holds values of a type of `records`, without the fields ``but``."""
    if annotation in PLAIN:
        return PLAIN[annotation]
    inner = [part for part in get_args(annotation) if part not in (NoneType, ...)]
    if get_origin(annotation) in (Union, UnionType) and len(inner) == 1:
        return _arrow_type(inner[0])
    if get_origin(annotation) is tuple and len(inner) == 1:
        return pa.list_(_arrow_type(inner[0]))
    if get_origin(annotation) is Literal or issubclass(annotation, StrEnum):
        return pa.string()
    if issubclass(annotation, Shape):
        fields = {name: field.annotation for name, field in annotation.model_fields.items()}
        fields |= {name: field.return_type for name, field in annotation.model_computed_fields.items()}
        return pa.struct(
            [(name, _arrow_type(of_field)) for name, of_field in fields.items() if name not in but]
        )
    raise TypeError(f"{annotation} has no column type")
