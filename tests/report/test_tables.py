"""Tables show what the records say, and gaps as dashes."""

import json
import re

import pandas as pd
from factories import make_result

from kvhelpers.analysis.analyse import analyse
from kvhelpers.analysis.half_accuracy import curves, find_half_accuracy
from kvhelpers.records import Rate
from kvhelpers.report import tables
from kvhelpers.report.format import markdown_table, points, rate, sentence, share
from kvhelpers.stats import Estimate, compare_counts

RIGHT, WRONG = [True] * 20, [False] * 20


def test_results_have_a_row_for_each_condition():
    weak = make_result("none", 0.0, [True] * 5 + [False] * 5)
    table = tables.results_table([weak, make_result("knorm", 0.5, [False] * 10, {0: 3})])
    assert table["Flags"].tolist() == ["weak_baseline 10/10"] * 2
    assert table["Acc"].tolist() == ["50 % [24, 76]", "0 % [0, 28]"]
    assert table["Looping"].tolist() == ["0 % [0, 28]", "10 % [2, 40]"]
    assert table["Kept tokens"].tolist() == ["100 of 100", "50 of 100"]
    assert json.dumps(table.to_dict("records"))


def test_the_screen_shows_each_condition_and_names_the_valid_one_that_fails_most(output):
    flagged = make_result("snapkv", 0.875, WRONG, flags=["kept_within_window"])
    results = [make_result("none", 0.0, RIGHT), make_result("tova", 0.5, [*WRONG[1:], True]), flagged]
    text = tables.screen_text(results)
    row = next(line for line in text.splitlines() if "snapkv" in line)
    assert re.search(r" 0 % \[0, 16\] +100 % \[84, 100\] .* 12 of 100 +20 +kept_within_window$", row)
    (look,) = (line for line in text.splitlines() if line.startswith("Look next"))
    assert look.startswith("Look next at tova 0.5, where 19 of 20 runs fail: its answers are in ")
    executed = results[1].path.with_suffix(".ipynb")
    executed.parent.mkdir(parents=True)
    executed.touch()
    assert tables.screen_text(results).endswith(
        ".ipynb shows one of them beside the same prompt without compression."
    )


def test_amounts_are_ratios_budgets_and_fields():
    budget = make_result("snapkv", 0.5, RIGHT, press_kwargs={"window_size": 8})
    condition = budget.condition.model_copy(update={"ratio": None, "budget": 50})
    assert tables.amount(budget) == "0.5, window_size=8"
    assert tables.amount(budget.model_copy(update={"condition": condition})) == "budget 50, window_size=8"


def test_a_grid_has_a_row_for_each_press_and_marks_what_is_not_valid():
    weak = make_result("none", 0.0, [True] * 5 + [False] * 15)
    void = make_result("snapkv", 0.5, RIGHT, flags=["kept_within_window"])
    results = [weak, make_result("knorm", 0.25, WRONG, {0: 3}), void]
    table = tables.grid_table(results, [])
    assert list(table) == ["Press", "0.25", "0.5"]
    assert table.values.tolist() == [
        ["knorm", "0 [0, 16] † / 5 [1, 24]", "–"],
        ["snapkv", "–", "100 [84, 100] † / 0 [0, 16] †"],
    ]


def test_a_half_accuracy_point_that_is_not_reached_reads_as_a_bound():
    solved = [True] * 40
    results = [make_result("none", 0.0, solved), *(make_result("knorm", r, solved) for r in (0.25, 0.75))]
    point = find_half_accuracy(curves(results)[0])
    assert tables.kept_text(point) == "< 25 [< 25, 25]"
    assert tables.grid_table(results, [point])["Half-accuracy at"].tolist() == ["< 25 [< 25, 25]"]
    fallen = [*results[:2], make_result("knorm", 0.75, [False] * 40)]
    assert tables.kept_text(find_half_accuracy(curves(fallen)[0])) == "25 to 75 [25, 75]"


def test_settings_have_rows_and_cuts_while_decoding_a_column():
    windows = [make_result("snapkv", 0.5, RIGHT, press_kwargs={"window_size": size}) for size in (8, 16)]
    table = tables.grid_table([*windows, make_result("DecodingPress", 0.0, RIGHT)], [])
    assert table["Press"].tolist() == ["snapkv window_size=8", "snapkv window_size=16", "DecodingPress"]
    assert list(table)[1:] == ["0.5", "while decoding"]


def test_amounts_that_most_presses_lack_stand_in_one_column():
    ratios = {"knorm": (0.1, 0.2), "tova": (0.3, 0.4), "snapkv": (0.5, 0.6)}
    results = [make_result(press, ratio, RIGHT) for press, two in ratios.items() for ratio in two]
    table = tables.grid_table(results[::-1], []).iloc[::-1]
    assert list(table) == ["Press", "Accuracy / looping"]
    cell = "100 [84, 100] / 0 [0, 16]"
    assert table["Accuracy / looping"].tolist() == [
        "; ".join(f"{ratio}: {cell}" for ratio in two) for two in ratios.values()
    ]


def test_gaps_are_dashes():
    found = analyse([make_result("none", 0.0, [True] * 8), make_result("knorm", 0.5, [True] * 8)])
    table = tables.press_table(found.discriminators)
    assert len(table) == 19 and set(table.iloc[:, 1:].to_numpy().flat) == {"–"}
    assert list(tables.press_table(found.discriminators))[1:] == [
        "all presses (0 of 16 runs)",
        "none (0 of 8 runs)",
        "knorm (0 of 8 runs)",
    ]


def test_side_by_side_wraps_and_cuts():
    text = tables.side_by_side({"a": "one two three", "b": "x\n\ny"}, width=8, lines=2)
    assert text.splitlines() == ["a         b", "--------  --------", "one two   x", "three", "          […]"]


def test_numbers_read_as_people_write_them():
    assert rate(Rate(count=1, n=20, rate=0.05, low=0.0089, high=0.236)) == "5 % [1, 24]"
    assert points(compare_counts(20, 0, 50)) == "−40 [−53, −24]"
    assert points(compare_counts(0, 0, 50)) == "0 [−5, +5]"
    assert share(Estimate(0.714, None, None, 1, 1)) == "71 % [no interval]" and share(None) == "–"


def test_a_table_s_pipes_are_escaped_and_a_sentence_is_a_line():
    assert markdown_table(pd.DataFrame({"a": ["x|y"]})).splitlines()[-1] == "| x\\|y |"
    assert sentence("\n  one\n  two  three\n") == "one two  three\n" and sentence("\n \n") == ""
