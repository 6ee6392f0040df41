"""What is shown of failed runs is one of each mode, short, and cannot break the log."""

import pytest
from factories import change_records, make_result

from kvhelpers import frames
from kvhelpers.errors import InputError
from kvhelpers.excerpts import LENGTH, excerpts, read_labels, specimens


def shown(*results, labels=None):
    return excerpts(frames.runs(results), labels or {})


def test_a_looping_excerpt_shows_the_loop():
    result = make_result("knorm", 0.5, [False] * 6, {0: 4}, text="x" * 1000 + "loop " * 300)
    heading, text, *_ = shown(change_records(result, loop_onset_char=1000))
    assert heading == "**Looping** (1 runs): `knorm 0.5`, p/0, right answer 1, loop from token 4 on:"
    assert text.startswith("```text\n[…] " + "x" * (LENGTH // 2) + "⟦loop⟧loop loop") and text.endswith(
        " […]\n```"
    )


def test_another_one_shows_the_beginning():
    (_, long), (_, short) = (
        shown(make_result("knorm", 0.5, [False], text=text)) for text in ("y" * 1000, "no")
    )
    assert long == f"```text\n{'y' * LENGTH} […]\n```" and short == "```text\nno\n```"
    assert shown(make_result("none", 0.0, [True])) == ["No run failed."]


def test_the_latest_loop_and_then_compressed_runs_are_shown_but_not_what_a_person_called_otherwise():
    results = [make_result("none", 0.0, [False] * 3), make_result("knorm", 0.5, [False] * 4, {0: 4, 1: 9})]
    chosen = specimens(frames.runs(results), {}).set_index("mode")["run"]
    assert chosen["looping"] == "made/knorm 0.5/p/1"
    (other,) = (run for mode, run in chosen.items() if mode != "looping")
    assert other == "made/knorm 0.5/p/2"
    read = {("knorm 0.5", "p/2"): "correct"}
    assert "made/knorm 0.5/p/3" in specimens(frames.runs(results), read)["run"].tolist()


def test_model_output_cannot_break_the_log():
    hostile = "````\n# heading\n\n<script>alert(1)</script> | a | {{ spec }}\n```"
    *_, text = shown(make_result("knorm", 0.5, [False] * 6, {0: 4}, text=hostile))[:2]
    assert text == f"`````text\n{hostile[:4]}⟦loop⟧{hostile[4:]}\n`````"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("experiment,condition,prompt,mode\na,none,p/0,amnesia\n", "mode 'amnesia' is unknown; did you mean"),
        ("experiment,condition,prompt,kind\na,none,p/0,looping\n", "specimens.csv cannot be read: .*'mode'"),
        ("", "specimens.csv cannot be read"),
    ],
)
def test_labels_that_are_none_are_named(tmp_path, monkeypatch, text, sentence):
    monkeypatch.setattr("kvhelpers.excerpts.labels_dir", lambda: tmp_path)
    (tmp_path / "specimens.csv").write_text(text)
    with pytest.raises(InputError, match=sentence):
        read_labels("another")


def test_without_a_file_of_labels_nobody_has_read_anything(tmp_path, monkeypatch):
    monkeypatch.setattr("kvhelpers.excerpts.labels_dir", lambda: tmp_path)
    assert read_labels("another") == {}
