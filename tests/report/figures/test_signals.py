from factories import make_result, make_sweep

from kvhelpers.analysis.analyse import analyse
from kvhelpers.report import figures
from kvhelpers.report.figures.signals import SHOWN, conditions_to_show


def test_bars_and_rows_are_the_table_s():
    found = analyse(make_sweep())
    bars = figures.mode_bars(found.runs).axes[0]
    assert {text.get_text() for text in bars.texts} == {"20", "19", "1"}
    rows = figures.heat_map(found.runs, found.signals["entropy"]).axes
    assert [axes.get_title() for axes in rows[:2]] == [
        "none (20 runs, 0 loop)",
        "knorm 0.25 (20 runs, 0 loop)",
    ]
    assert rows[2].get_title() == "knorm 0.5 (20 runs, 20 loop)"


def test_of_many_conditions_those_that_loop_half_the_time_are_shown():
    results = [
        make_result("knorm", ratio / 100, [False] * 8, {index: 3 for index in range(ratio % 9)})
        for ratio in range(1, 28)
    ]
    runs = analyse(results).runs
    shown = conditions_to_show(runs)
    half = [result.label for result in results if result.summary.looping.count == 4]
    assert len(shown) == SHOWN and set(half) < set(shown)
    assert shown == [result.label for result in results if result.label in shown]
