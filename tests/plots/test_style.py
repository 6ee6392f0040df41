import matplotlib.image
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kvhelpers.plots import (
    NOT_VALID,
    legend_above,
    marked,
    note_daggers,
    save,
    wrapped,
)


def test_a_dagger_is_explained_where_there_is_one():
    assert marked("knorm 0.5", True) == "knorm 0.5" and marked("knorm 0.5", False) == "knorm 0.5 †"
    assert note_daggers(["knorm 0.5"]) == {} and list(note_daggers(["none", "knorm 0.5 †"])) == [NOT_VALID]


def test_numbers_of_runs_are_not_torn_apart():
    assert wrapped("a label (n = 50)", 12) == "a label\n(n = 50)"


def test_long_legends_have_fewer_columns_and_no_end_is_cut(assert_whole):
    for labels in (["a", "b"], ["a long label " * 4, "b"], ["very " * 60, "a long label " * 12]):
        figure = Figure(figsize=(5, 3), layout="constrained")
        figure.subplots()
        legend_above(figure, {label: Line2D([], []) for label in labels})
        assert_whole(figure)
        shown = [" ".join(text.get_text().split()) for text in figure.legends[0].get_texts()]
        assert shown == [label.strip() for label in labels]


def test_both_files_have_the_committed_size(tmp_path):
    figure = Figure(figsize=(4, 3), layout="constrained")
    figure.subplots()
    path = save(figure, tmp_path, "x")
    assert matplotlib.image.imread(path).shape[:2] == (450, 600)
    assert 'width="288pt" height="216pt"' in path.with_suffix(".svg").read_text()
