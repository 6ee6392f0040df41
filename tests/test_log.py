"""A log's tables are written; its words are left alone."""

import numpy as np
import pandas as pd

from kvhelpers import frames
from kvhelpers.log import table, with_tables, write_tables
from kvhelpers.report.format import share

WORDS = "# A log\n\nSaid by a person, 3 | 4.\n\n| a | b |\n| --- | --- |\n| old | 1 |\n\nThe end.\n"


def test_a_table_takes_the_place_of_the_one_with_its_columns():
    new = pd.DataFrame({"a": ["new", "newer"], "b": [2, 3]})
    text = with_tables(WORDS, [new])
    assert text == WORDS.replace("| old | 1 |", "| new | 2 |\n| newer | 3 |")
    assert with_tables(text, [new]) == text


def test_tables_with_the_same_columns_take_their_places_in_order():
    text = with_tables(WORDS + WORDS, [pd.DataFrame({"a": [name], "b": [0]}) for name in ("one", "two")])
    assert text.index("| one |") < text.index("| two |") and "old" not in text


def test_a_table_that_the_log_lacks_is_put_at_its_end():
    assert with_tables(WORDS, [pd.DataFrame({"c": [1]})]) == WORDS + "\n| c |\n| --- |\n| 1 |\n"


def test_a_new_log_has_its_beginning_and_an_old_one_its_words(output):
    path = write_tables("made", [pd.DataFrame({"a": ["x"], "b": [1]})], "# Begun\n")
    path.write_text(path.read_text() + "\nA person's words.\n")
    write_tables("made", [pd.DataFrame({"a": ["y"], "b": [2]})], "# Begun anew\n")
    assert path.read_text() == "# Begun\n\n| a | b |\n| --- | --- |\n| y | 2 |\n\nA person's words.\n"


def test_rows_of_the_long_frame_are_written_as_asked():
    rows = [
        frames.row("here", "knorm", "right", 0.5, low=0.25, high=0.75, n=4),
        frames.row("here", "tova", "right", 0.5, n=4),
        frames.row("here", "tova", "time", np.nan, verdict="not measured"),
    ]
    columns = {"Right": ("right", share), "n": ("right", "{:.1f}"), "Time": ("time", lambda one: one.verdict)}
    made = table(frames.long_frame(rows), "Press", {"K": ("here", "knorm"), "T": ("here", "tova")}, columns)
    assert made.to_dict("list") == {
        "Press": ["K", "T"],
        "Right": ["50 % [25, 75]", "50 % [no interval]"],
        "n": ["0.5", "0.5"],
        "Time": ["–", "not measured"],
    }
