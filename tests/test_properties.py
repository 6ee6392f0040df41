"""Properties that must hold for any text and any tokens, not for chosen ones only."""

import json
import math

import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kvhelpers.answers import extract_answer
from kvhelpers.config import SCHEMA_VERSION
from kvhelpers.errors import InputError
from kvhelpers.failures import find_failures, find_periodic_loop, find_window_loop
from kvhelpers.modes import is_amnesia
from kvhelpers.results import CellResult, read_cell
from kvhelpers.signallog import _quote
from kvhelpers.tables import markdown_table
from kvhelpers.tasks import STOP_STRINGS

TEXTS = st.text(st.characters(codec="utf-8"), max_size=300) | st.text("#$-., 0123456789\n`|<>&", max_size=80)
TOKENS = st.lists(st.integers(0, 3), max_size=120) | st.lists(st.integers(0, 50_000), max_size=60)
FEW = settings(max_examples=200, deadline=None)


@FEW
@given(TEXTS, TEXTS)
def test_any_text_has_an_answer_or_none(text, reference):
    answer = extract_answer(text, STOP_STRINGS)
    assert answer.value is None or answer.value in text.replace(",", "").replace("$", "")
    assert isinstance(answer.is_correct(reference), bool)


@FEW
@given(TEXTS, st.integers(-10_000, 10_000))
def test_a_strict_answer_at_the_end_is_found(text, number):
    before = text.replace("####", "").split("Question:")[0]
    for stop in STOP_STRINGS:
        before = before.replace(stop, "")
    assert extract_answer(f"{before}\n#### {number}", STOP_STRINGS).is_correct(str(number))


@FEW
@given(TOKENS, st.sampled_from(["eos", "max_new_tokens", "error"]), st.booleans())
def test_failures_point_into_the_run(tokens, stop, correct):
    found = find_failures(tokens, stop, correct)
    if found.loop_onset is not None:
        assert 0 <= found.loop_onset <= found.loop_detected < len(tokens)
    assert found.looping == (find_window_loop(tokens) is not None)
    assert found.periodic_loop is None or found.looping  # each periodic loop is also a window loop
    assert found.catastrophic == (found.non_termination or found.looping or found.wrong_answer)


@FEW
@given(TOKENS, TOKENS)
def test_a_loop_once_detected_stays_whatever_follows(tokens, more):
    for find in (find_window_loop, find_periodic_loop):
        if (loop := find(tokens)) is not None:
            again = find(tokens + more)
            assert (again.start, again.detected) == (loop.start, loop.detected)


@FEW
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(0, 30))
def test_a_repeated_stretch_is_a_loop(cycle, before):
    tokens = [*range(100, 100 + before), *cycle * math.ceil(60 / len(cycle) + 3)]
    loop = find_periodic_loop(tokens)
    assert loop is not None and loop.start <= before


@FEW
@given(TEXTS, TEXTS, TEXTS)
def test_amnesia_is_decided_for_any_texts(question, text, example):
    assert isinstance(is_amnesia(question, text, [{"question": example}]), bool)


@FEW
@given(TEXTS)
def test_model_output_cannot_leave_its_block(text):
    """In the log the output stands in a fence that is longer than any in it, so neither Markdown nor HTML in it is rendered."""
    lines = _quote(text).split("\n")
    fence = lines[0].removesuffix("text")
    assert set(fence) == {"`"} and lines[-1] == fence
    assert not any(line.strip().startswith(fence) for line in lines[1:-1])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["schema_version", "config", "x"]), inner),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
@example(b'{"schema_version": %d}' % SCHEMA_VERSION)
@example(b'{"schema_version": %d, "config": {}, "identity": []}' % SCHEMA_VERSION)
@example(b"[" * 100_000)
def test_any_file_is_a_result_or_named(tmp_path, content):
    path = tmp_path / "cell.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match="results file .*cell.json (is no readable cell result|has schema version)"):
        read_cell(path)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_signals_file_is_one_or_named(tmp_path, content):
    cell = CellResult({}, tmp_path / "cell.json")
    cell.path.with_suffix(".parquet").write_bytes(content)
    with pytest.raises(InputError, match="signals file .*cell.parquet cannot be read"):
        cell.signals()


@FEW
@given(st.lists(TEXTS, min_size=1, max_size=3))
def test_no_cell_breaks_a_table(values):
    lines = markdown_table(pd.DataFrame([values], columns=[f"c{i}" for i in range(len(values))])).split("\n")
    assert len(lines) == 3 and all(line.replace("\\|", "").count("|") == len(values) + 1 for line in lines)
