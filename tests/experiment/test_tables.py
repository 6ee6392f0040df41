"""Tables of results have one schema, whatever a condition holds."""

import pyarrow as pa
import pytest
from factories import make_result

from kvhelpers.experiment.condition import make_condition
from kvhelpers.experiment.tables import (
    CONDITION_SCHEMA,
    JSON_ONLY,
    _arrow_type,
    records_table,
    with_condition,
)
from kvhelpers.records import Record


def test_records_come_back_from_their_table():
    results = [make_result("knorm", 0.5, [True, False], {1: 3}), make_result("none", 0.0, [True, True])]
    rows = records_table(results).to_pylist()
    records = [record for result in results for record in result.records]
    assert [Record.model_validate(row) for row in rows] == records
    assert [row["condition"] for row in rows] == ["knorm 0.5", "knorm 0.5", "none", "none"]
    assert set(Record.model_fields) - JSON_ONLY <= set(rows[0])


def test_a_column_without_any_value_has_the_type_of_those_with_values():
    looping, healthy = (records_table([make_result("knorm", 0.5, [False], loops)]) for loops in ({0: 3}, {}))
    assert healthy.column("loop_onset_char").null_count == 1
    assert healthy.schema == looping.schema
    assert not any(pa.types.is_null(field.type) for field in healthy.schema)
    assert pa.concat_tables([looping, healthy]).num_rows == 2


def test_a_condition_s_columns_stand_first_and_once():
    condition = make_condition({"press": "snapkv", "budget": 64, "press_kwargs": {"window_size": 8}})
    table = pa.table({"step": [0, 1], "ratio": ["an", "older one"]})
    made = with_condition(table, condition)
    assert made.column_names == [*CONDITION_SCHEMA.names, "step"]
    assert with_condition(made, condition) == made
    row = made.to_pylist()[1]
    assert row["press_kwargs"] == '{"window_size": 8}' and row["budget"] == 64 and row["ratio"] is None
    assert row["condition"] == condition.label() and row["step"] == 1
    assert len(with_condition(table[:0], condition)) == 0


def test_a_type_that_no_column_can_have_is_refused():
    with pytest.raises(TypeError, match="has no column type"):
        _arrow_type(dict[str, int])
