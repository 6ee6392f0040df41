"""A log is whole, keeps what a person wrote, and refuses results that do not hold together."""

import copy
import json
import re
import shutil

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from factories import change_records, make_result, make_sweep, reseal

from kvhelpers import frames, log
from kvhelpers.errors import InputError
from kvhelpers.estimates import estimates
from kvhelpers.experiment.grid import Contrast, Experiment
from kvhelpers.format import share
from kvhelpers.log import table, with_tables, write_tables
from kvhelpers.paths import samples_dir

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


SAMPLE = "002-compression-sweep"
SECTIONS = [
    "Objective",
    "Setup",
    "Conditions and results",
    "Signals",
    "Failure modes",
    "Conclusions",
    "Next steps",
]
WORDS_IN = f"{log.BEGIN}\n1. Mine, with \\1 and $.\n{log.END}"


def text_of(results, spec=None, words=log.INVITATION):
    runs, tokens = frames.runs(results), frames.tokens(results, log.SIGNALS)
    contrasts = spec.contrasts if spec else ()
    long = estimates(runs, tokens, contrasts)
    return log.log_text(results, spec, runs, long, log.shown_conditions(runs, contrasts), words)


@pytest.fixture
def written(output, monkeypatch):
    """A log that was written, of two made conditions."""
    results = [make_result("none", 0.0, [True] * 6), make_result("knorm", 0.5, [False] * 6, {0: 4})]
    monkeypatch.setattr(log, "finished_results", lambda experiment, root: copy.copy(results))
    return log.write_log("made")


def test_conclusions_survive_and_nothing_else(written, output):
    first = written.read_text()
    assert re.findall(r"^## (.*)$", first, re.MULTILINE) == SECTIONS and log.INVITATION in first
    assert "\n\n\n" not in first and log.write_log("made").read_text() == first
    files = {path.name for path in output.glob("figures/made/*")}
    assert files == {"rates.png", "rates.svg", "estimates.csv", "conditions.csv"}
    assert set(re.findall(r"\(\.\./figures/made/([\w.]+)\)", first)) == files - {"rates.svg"}
    edited = first.replace(f"{log.BEGIN}\n{log.INVITATION}{log.END}", WORDS_IN)
    written.write_text(edited.replace("A trial.", "Not a trial."))
    assert log.write_log("made").read_text() == edited != first


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace(log.END, ""),
        lambda text: text.replace(log.BEGIN, f"{log.BEGIN} and more"),
        lambda text: text.replace("<!-- conclusions:", "<!-- notes:"),
        lambda text: text + f"\n{log.BEGIN}\nMore.\n{log.END}\n",
        lambda text: text.replace("Mine", "Größer").encode("latin-1", "replace"),
    ],
)
def test_what_a_person_wrote_is_never_lost(written, spoil):
    text = spoil(written.read_text().replace(f"{log.BEGIN}\n{log.INVITATION}{log.END}", WORDS_IN))
    written.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = written.read_bytes()
    with pytest.raises(InputError, match=r"log experiments/made.md (has not one place|is no UTF-8 text)"):
        log.write_log("made")
    assert written.read_bytes() == before


def test_of_many_conditions_ten_are_shown_and_those_near_half_accuracy_come_first():
    right = {ratio: [True] * max(0, 12 - ratio) + [False] * min(12, ratio) for ratio in range(1, 15)}
    pressed = [make_result("knorm", ratio / 20, correct) for ratio, correct in right.items()]
    runs = frames.runs([make_result("none", 0.0, [True] * 12), *pressed])
    shown = log.shown_conditions(runs)
    assert len(shown) == log.ROWS and shown[0] == "none" and "knorm 0.3" in shown and "knorm 0.7" not in shown
    named = [Contrast(about="a", first="knorm 0.7", second="knorm 0.05")]
    assert log.shown_conditions(runs, named) == ["none", "knorm 0.05", "knorm 0.7"]
    text = text_of([make_result("none", 0.0, [True] * 12), *pressed])
    assert "5 more conditions and all estimates" in text and len(text.split()) < 700


def test_contrasts_are_the_second_table_and_those_thought_of_afterwards_are_marked():
    pair = {"first": "knorm 0.5", "second": "tova 0.5"}
    contrasts = [Contrast(about="A", **pair), Contrast(about="B", **pair, planned=False)]
    spec = Experiment(name="made", objective="To see.", grid=[{"press": "none"}], contrasts=contrasts)
    text = text_of(make_sweep(), spec)
    assert "\n## Contrasts\n" in text and "\n## Signals\n" not in text
    row = "| knorm 0.5 against tova 0.5 | **−100 [−100, −74]** | **+100 [+74, +100]** |"
    assert (
        f"| A {row}" in text and f"| B ‡ {row}" in text and "‡: thought of after the runs were seen." in text
    )
    unmarked = text_of(make_sweep(), spec.model_copy(update={"contrasts": contrasts[:1]}))
    assert "‡" not in unmarked


def test_what_is_not_finished_is_named():
    grid = [{"press": "none"}, {"press": "knorm", "ratio": [0.25, 0.5]}]
    contrast = Contrast(about="A", first="knorm 0.25", second="knorm 0.5")
    spec = Experiment(name="made", objective="To see.", grid=grid, contrasts=[contrast], command="do it")
    results = [make_result("none", 0.0, [True] * 12), make_result("knorm", 0.5, [True] * 12)]
    text = text_of(results, spec)
    assert "Not finished: `knorm 0.25`.\n" in text and "```bash\ndo it\n```" in text
    assert "No pair of conditions is finished." in text


def test_flags_are_said_once_and_what_takes_the_meaning_away_is_explained():
    flagged = [make_result(press, 0.5, [True] * 12, flags=["sink_evicted"]) for press in ("knorm", "random")]
    void = make_result("snapkv", 0.5, [True] * 12, flags=["kept_within_window"])
    text = text_of([make_result("none", 0.0, [True] * 12), *flagged, void])
    assert (
        "Flags, of 4 conditions: `kept_within_window` in 1, `sink_evicted` in 2. †: no valid evidence" in text
    )
    assert "| snapkv 0.5 † |" in text and "Flags" not in text_of([make_result("none", 0.0, [True] * 12)])


def test_where_numbers_come_from_stands_in_six_lines():
    result = make_result("none", 0.0, [True] * 6)
    assert len(log.setup([result])) == 6
    assert f"- Code: commit `{'c' * 12}`; torch 2." in text_of([result])
    made = result.provenance.model_copy(
        update={"clean": False, "ignored_generation_config": {"repetition_penalty": 1.3}}
    )
    machine = made.machine.model_copy(update={"load": 9.0})
    busy = result.model_copy(update={"provenance": made.model_copy(update={"machine": machine})})
    text = text_of([busy])
    assert f"commit `{'c' * 12}` with changes;" in text and "crowded (load up to 9)" in text
    assert "the model's own `repetition_penalty: 1.3` is not followed" in text


def test_a_condition_without_prefill_and_without_tokens_has_a_log():
    stops = dict.fromkeys(range(3), "error")
    broken = make_result("knorm", 0.5, [False] * 3, stops=stops, entropy={index: [] for index in range(3)})
    broken = change_records(broken, cache=None)
    summary = broken.summary.model_copy(update={"kept_tokens": None, "cache_bytes": None})
    text = text_of([broken.model_copy(update={"summary": summary})])
    assert "3 runs broke or were stopped by `timeout_s`" in text and "prompt p/0: broken." in text
    assert "nan" not in text and "No loop, or no uncompressed run" in text


def test_a_home_folder_is_not_named(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    result = make_result("none", 0.0, [True] * 6)
    identity = result.identity | {"model_source": f"{tmp_path}/models/m.gguf"}
    away = result.model_copy(update={"identity": identity, "path": tmp_path / "results/m.json"})
    assert str(tmp_path) not in text_of([away]) and "~/models/m.gguf" in text_of([away])
    (row,) = log.conditions_table([away], estimates(frames.runs([away]), frames.tokens([away]))).to_dict(
        "records"
    )
    assert row["file"] == "~/results/m.json"


def test_no_condition_no_log(output):
    with pytest.raises(InputError, match="experiment 'nothing' has no finished condition"):
        log.write_log("nothing")
    assert list(output.iterdir()) == []


@pytest.fixture
def copied(output):
    """A copy of two conditions of the repository's sample, to be spoiled."""
    for press in ("none", "expected_attention"):
        shutil.copytree(samples_dir() / SAMPLE / press, output / "data/results" / SAMPLE / press)
    return output / "data/results" / SAMPLE


def truncate(folder):
    path = next(folder.glob("none/*.parquet"))
    path.write_bytes(path.read_bytes()[:-100])
    reseal(path.with_suffix(".json"))


def drop_rows(folder):
    path = next(folder.glob("none/*.parquet"))
    pd.read_parquet(path).iloc[:-3].to_parquet(path)
    reseal(path.with_suffix(".json"))


def drop_column(folder):
    path = next(folder.glob("none/*.parquet"))
    pq.write_table(pq.read_table(path).drop_columns(["margin"]), path)
    reseal(path.with_suffix(".json"))


def lose_signals(folder):
    next(folder.glob("none/*.parquet")).unlink()


def other_schema(folder):
    path = next(folder.glob("none/*.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 1}))


def garble(folder):
    next(folder.glob("none/*.json")).write_text("{")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (truncate, "signals file .*none/.*parquet cannot be read"),
        (lose_signals, "signals file .*none/.*parquet cannot be read"),
        (drop_rows, "has \\d+ tokens of prompt onestep/42/\\d+, its results say \\d+; delete both and run"),
        (drop_column, "has no column 'margin'; it has experiment, .*prompt_index"),
        (other_schema, "has schema version 1; this version reads 5"),
        (garble, "is no readable condition result"),
    ],
)
def test_spoiled_results_are_refused_and_nothing_is_written(copied, output, spoil, sentence):
    spoil(copied)
    with pytest.raises(InputError, match=sentence):
        log.write_log(SAMPLE)
    assert sorted(path.name for path in output.iterdir()) == ["data"]
