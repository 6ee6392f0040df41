import json

import pytest
from made import make_cell

from kvhelpers import comparisons, statlog, sweepfigures
from kvhelpers.cliff import curves
from kvhelpers.errors import InputError
from kvhelpers.experiment import Contrast, Experiment

RIGHT, WRONG = [True] * 20, [False] * 20


def made():
    loud = {index: 3 for index in range(20)}
    return [
        make_cell("none", 0.0, RIGHT),
        make_cell("knorm", 0.25, [*RIGHT[1:], False]),
        make_cell("knorm", 0.5, WRONG, loud),
        make_cell("tova", 0.5, RIGHT),
    ]


def test_verdicts_follow_the_data():
    compared = comparisons.compare_all(made())
    assert [one.cell.label for one in compared] == ["knorm 0.25", "knorm 0.5", "tova 0.5"]
    higher, lower, same = comparisons.verdict_sentences(compared, "Accuracy")
    assert "lower than without compression in 1 of 3 cells: `knorm 0.5` (−100 [" in lower
    assert "`knorm 0.25`" in same and "`tova 0.5`" in same and higher.endswith("0 of 3 cells.")
    higher, lower, _ = comparisons.verdict_sentences(compared, "Loops or does not end")
    assert "`knorm 0.5` (+100 [" in higher and "0 of 3 cells." in lower


def test_q_values_are_over_the_whole_grid():
    compared = comparisons.compare_all(made())
    found, q = compared[1].found["Accuracy"]
    assert q == pytest.approx(found.p * 6 / 2)  # six tests, two of them with the smallest p


def test_contrasts_turn_around():
    cells = made()
    contrast = Contrast(about="the two", first="knorm 0.5", second="tova 0.5")
    (told,) = comparisons.contrast_sentences(cells, [contrast])
    assert told.startswith("the two: `knorm 0.5` against `tova 0.5` (50 kept tokens, n = 20): looping 100 % against 0 %, ")
    assert "difference +100 [" in told and "accuracy 0 % against 100 %, difference −100 [" in told and "lower (q" in told
    (back,) = comparisons.contrast_sentences(cells, [Contrast(about="the two", first="tova 0.5", second="knorm 0.5")])
    assert "looping 0 % against 100 %, difference −100" in back and "accuracy 100 % against 0 %, difference +100" in back
    (missing,) = comparisons.contrast_sentences(cells[:2], [contrast])
    assert missing == "Not yet compared, since a cell is missing: `knorm 0.5` against `tova 0.5`."


def test_a_contrast_of_unknown_cells_is_refused():
    contrast = {"about": "x", "first": "knorm 0.4", "second": "none"}
    experiment = Experiment(
        name="x", objective="", grid=[{"press": "none"}, {"press": "knorm", "ratio": 0.5}], contrasts=[contrast]
    )
    with pytest.raises(InputError, match="contrast cell 'knorm 0.4' is unknown; did you mean 'knorm 0.5'"):
        experiment.configs()


def test_the_section_names_n_power_and_cliffs():
    cells = made()
    told = "\n\n".join(statlog.section(cells, [Contrast(about="A", first="knorm 0.5", second="tova 0.5")], {}))
    assert "| knorm | 0.5 | 50 | −100 [" in told and "With 20 prompts McNemar's exact test needs at least 6" in told
    assert "### Cliffs" in told and "### Answer\n\nA: `knorm 0.5`" in told
    assert "nothing to compare" in statlog.section(cells[1:], [], {})[0]
    assert json.dumps(comparisons.comparison_table(comparisons.compare_all(cells), "Accuracy").to_dict("records"))


def test_figures_show_what_there_is():
    cells = made()
    (panel,) = sweepfigures.rates_by_kept(curves(cells), cells[0]).axes
    assert panel.get_title() == "knorm (n = 20)"  # tova has one cell only
    assert [list(line.get_xdata()) for line in panel.lines] == [[100, 75, 50]] * 3
    assert list(panel.lines[0].get_ydata()) == [1.0, 0.95, 0.0]
    assert sweepfigures.rates_by_kept([], cells[0]) is None and sweepfigures.cache_over_time(cells) is None


def test_the_cache_over_time_grows_and_is_cut():
    cell = make_cell("DecodingPress", 0.0, [True])
    record = cell.records[0]
    record["compressions"] = [{"step": 8, "before": 108.0, "after": 60.0}, {"step": 16, "before": 68.0, "after": 60.0}]
    sizes = sweepfigures.cached_tokens(record)
    assert list(sizes[[0, 7, 8, 15, 16, 29]]) == [100, 107, 60, 67, 60, 73]
    assert sweepfigures.cache_over_time([cell]).axes[0].lines[0].get_ydata()[8] == 60
