"""The log's sentences follow the data: the same cells with other outcomes give the opposite sentences."""

import copy
import json

import pandas as pd
import pytest
from made import make_cell

from kvhelpers import conclusions, log, signallog, tables
from kvhelpers.analysis import analyse
from kvhelpers.errors import InputError
from kvhelpers.tables import markdown_table, results_table, side_by_side


def sentences(*cells):
    told = conclusions.accuracy_sentences(cells) + conclusions.catastrophe_sentences(cells)
    return " ".join(told + conclusions.looping_sentences(cells))


def test_accuracy_sentences_turn_around():
    all_right, none_right = [True] * 10, [False] * 10
    drop = sentences(make_cell("none", 0.0, all_right), make_cell("knorm", 0.5, none_right))
    assert "`knorm 0.5`, keeping 50 of 100 prompt tokens, 0 of 10 (0 % [0, 28]) prompts are solved: lower than" in drop
    assert "10 prompts lost, 0 gained" in drop
    mixed = [True] * 8 + [False] * 8
    rise = sentences(make_cell("none", 0.0, mixed), make_cell("knorm", 0.5, [True] * 16))
    assert "higher than without compression" in rise and "lower" not in rise
    same = sentences(make_cell("none", 0.0, all_right), make_cell("knorm", 0.5, [*all_right[:9], False]))
    assert "not distinguishable from no compression" in same


def test_a_weak_baseline_takes_the_meaning_out_of_the_differences():
    weak = make_cell("none", 0.0, [True] * 5 + [False] * 5)
    assert "too few to show a drop" in sentences(weak, make_cell("knorm", 0.5, [False] * 10))
    table = results_table([weak, make_cell("knorm", 0.5, [False] * 10)])
    assert table["Flags"].tolist() == ["weak_baseline 10/10"] * 2


def test_looping_sentences_turn_around():
    right = [True] * 12
    quiet, loud = {}, {index: 3 for index in range(12)}
    first = sentences(
        make_cell("none", 0.0, right), make_cell("snapkv", 0.5, right, loud), make_cell("tova", 0.5, right, quiet)
    )
    assert "`snapkv 0.5` loops more often than `tova 0.5`" in first
    second = sentences(
        make_cell("none", 0.0, right), make_cell("snapkv", 0.5, right, quiet), make_cell("tova", 0.5, right, loud)
    )
    assert "`tova 0.5` loops more often than `snapkv 0.5`" in second
    third = sentences(make_cell("none", 0.0, right), make_cell("snapkv", 0.5, right, loud), make_cell("tova", 0.5, right, loud))
    assert "do not differ detectably in looping" in third
    assert "No run loops." in sentences(make_cell("none", 0.0, right))


def test_a_flag_stands_beside_every_number_it_concerns():
    right = [True] * 12
    flagged = make_cell("snapkv", 0.5, right, {i: 3 for i in range(12)}, flags=["kept_within_window"])
    told = sentences(make_cell("none", 0.0, right), flagged, make_cell("tova", 0.5, right))
    assert told.count("Not valid as evidence about") == 2 and told.count("(not valid, see its flags)") == 2
    noted = make_cell("knorm", 0.5, right, flags=["sink_evicted"])
    told = sentences(make_cell("none", 0.0, right), noted)
    assert "Note: the attention sink" in told and "Not valid" not in told


def test_cells_of_which_the_same_is_to_be_said_share_a_line():
    flagged = [make_cell(press, 0.5, [True] * 12, flags=["sink_evicted"]) for press in ("knorm", "random")]
    cells = [make_cell("none", 0.0, [True] * 12), *flagged]
    text = log.render(cells, None, analyse(cells), {}, {})
    assert "- `knorm 0.5`, `random 0.5`: keeps 50.0 of 100.0 prompt tokens" in text
    assert (
        "**sink_evicted** (the attention sink (first token) was evicted in most heads), in so many runs: `knorm 0.5` " in text
    )


def test_failed_runs_are_named():
    cell = make_cell("knorm", 0.5, [False, True])
    cell.records[0].update(stop_reason="error", error="RuntimeError in the prefill: broken")
    assert conclusions.cut_sentences([cell]) == ["`knorm 0.5`, prompt p/0: error, RuntimeError in the prefill: broken."]


def test_model_output_cannot_break_the_log():
    hostile = "````\n# heading\n<script>alert(1)</script> | a | b |\n```"
    cells = [make_cell("none", 0.0, [True] * 6), make_cell("knorm", 0.5, [False] * 6, {0: 4}, text=hostile)]
    text = log.render(cells, None, analyse(cells), {}, {})
    start = text.index("`````text\n")
    assert text[start:].startswith("`````text\n" + hostile[:4] + "⟦loop⟧" + hostile[4:] + "\n`````\n")
    assert markdown_table(pd.DataFrame({"a": ["x|y"]})).splitlines()[-1] == "| x\\|y |"


def test_a_looping_excerpt_shows_the_loop():
    text = "x" * 1000 + "loop " * 300
    cell = make_cell("knorm", 0.5, [False] * 6, {0: 4}, text=text)
    cell.records[0]["loop_onset_char"] = 1000
    shown = signallog.excerpt(cell, cell.records[0])
    assert "[…] " + "x" * 200 + "⟦loop⟧loop loop" in shown and shown.endswith(" […]\n```") and len(shown) < 700


def test_written_prose_survives_and_nothing_else(output, monkeypatch):
    cells = [make_cell("none", 0.0, [True] * 6), make_cell("knorm", 0.5, [False] * 6, {0: 4})]
    monkeypatch.setattr(log, "finished_cells", lambda experiment, root: copy.copy(cells))
    path = log.write_log("made")
    first = path.read_text()
    assert (output / "figures/made/outcomes.svg").exists() and (output / "figures/made/trace.png").exists()
    assert log.write_log("made").read_text() == first
    for heading in ("Objective", "Setup", "Compression configurations", "Results", "Statistics", "Result files"):
        assert f"\n## {heading}\n" in first
    for heading in ("Signal analysis", "Failure modes", "Conclusions", "Next steps"):
        assert f"\n## {heading}\n" in first
    assert "**too few prompts to say** whether it warns of loops" in first
    assert "keeps 50.0 of 100.0 prompt tokens" in first
    edited = first.replace("<!-- prose:notes -->\n", "<!-- prose:notes -->\nMine, with \\1 and $.\n")
    path.write_text(edited.replace("prompts are solved", "prompts are unsolved"))
    assert log.write_log("made").read_text() == edited


def test_no_cell_no_log(output):
    with pytest.raises(InputError, match="experiment 'nothing' has no finished cell"):
        log.write_log("nothing")
    assert list(output.iterdir()) == []


def test_side_by_side_wraps_and_cuts():
    told = side_by_side({"a": "one two three", "b": "x\n\ny"}, width=8, lines=2)
    assert told.splitlines() == ["a         b", "--------  --------", "one two   x", "three", "          […]"]


def test_rates_read_as_percent_with_interval():
    assert tables.rate_text({"rate": 0.05, "low": 0.0089, "high": 0.236}) == "5 % [1, 24]"
    assert json.dumps(results_table([make_cell("none", 0.0, [True] * 6)]).to_dict("records"))
