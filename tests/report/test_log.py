"""The log is whole, keeps what people wrote, and refuses results that do not hold together."""

import copy
import json
import re
import shutil

import pandas as pd
import pyarrow.parquet as pq
import pytest
from factories import change_records, make_result, reseal

from kvhelpers.analysis.analyse import analyse
from kvhelpers.errors import InputError
from kvhelpers.experiment.grid import Contrast, Experiment
from kvhelpers.paths import samples_dir
from kvhelpers.report import log

SAMPLE = "002-compression-sweep"
SECTIONS = [
    "Question",
    "Setup",
    "Results",
    "What the flags mean here",
    "Conclusions",
    "Next steps",
    "More",
]


def text_of(results, spec=None):
    analysis = analyse(results)
    numbers = log.make_numbers(results, spec, analysis)
    tables = {name: log.figures_dir("made") / f"{name}.csv" for name in numbers.frames}
    return log.log_text(results, spec, analysis, numbers, {}, tables, {})


def test_written_prose_survives_and_nothing_else(output, monkeypatch):
    results = [make_result("none", 0.0, [True] * 6), make_result("knorm", 0.5, [False] * 6, {0: 4})]
    monkeypatch.setattr(log, "finished_results", lambda experiment, root: copy.copy(results))
    path = log.write_log("made")
    first = path.read_text()
    assert (output / "figures/made/outcomes.svg").exists() and (output / "figures/made/trace.png").exists()
    assert log.write_log("made").read_text() == first
    assert re.findall(r"^## (.*)$", first, re.MULTILINE) == SECTIONS
    assert "\n\n\n" not in first and first.endswith("</details>\n")
    named = re.findall(r"\(\.\./(figures/made/\w+\.csv)\)", first)
    assert set(named) == {path.relative_to(output).as_posix() for path in output.glob("figures/made/*.csv")}
    edited = first.replace("<!-- prose:notes -->\n", "<!-- prose:notes -->\nMine, with \\1 and $.\n")
    assert edited != first
    path.write_text(edited.replace("without compression", "with compression"))
    assert log.write_log("made").read_text() == edited


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace("<!-- /prose -->", "", 1),
        lambda text: text.replace("<!-- prose:notes -->\n", "<!-- prose:notes --> \n"),
        lambda text: text.replace("<!-- prose:notes -->", "<!-- prose:my-notes -->"),
        lambda text: text + "<!-- prose:notes -->\nMore.\n<!-- /prose -->\n",
        lambda text: text.replace("Mine.", "Größer.").encode("latin-1"),
    ],
)
def test_what_people_wrote_is_never_lost(output, monkeypatch, spoil):
    results = [make_result("none", 0.0, [True] * 6)]
    monkeypatch.setattr(log, "finished_results", lambda experiment, root: copy.copy(results))
    path = log.write_log("made")
    text = path.read_text(encoding="utf-8").replace("prose:notes -->\n", "prose:notes -->\nMine.\n")
    text = spoil("".join(char for char in text if ord(char) < 256))
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"log experiments/made.md (has prose marks that|is no UTF-8 text)"):
        log.write_log("made")
    assert path.read_bytes() == before


def test_a_log_begins_with_at_most_six_lines_and_fits_two_pages():
    pressed = [make_result("knorm", ratio / 20, [True] * 12) for ratio in range(1, 15)]
    for results in ([make_result("none", 0.0, [True] * 12), *pressed], pressed[:1]):
        text = text_of(results)
        abstract = text[: text.index("## Question")]
        assert 1 <= abstract.count("\n- ") <= 6
        assert len(re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL).split()) < 1500


def test_many_conditions_make_a_grid_of_presses_and_amounts():
    pressed = [make_result("knorm", ratio / 20, [True] * 12) for ratio in range(1, 10)]
    text = text_of([make_result("none", 0.0, [True] * 12), *pressed])
    assert "| Press | 0.05 | 0.1 |" in text and "| knorm | 100 [76, 100] / 0 [0, 24] |" in text
    assert "Without compression 12 of 12 (100 % [76, 100]) prompts are solved" in text
    assert "| Press | Ratio | Acc |" in text_of([make_result("none", 0.0, [True] * 12)])


def test_a_flag_is_said_once_with_its_conditions():
    flagged = [make_result(press, 0.5, [True] * 12, flags=["sink_evicted"]) for press in ("knorm", "random")]
    text = text_of([make_result("none", 0.0, [True] * 12), *flagged])
    assert text.count("evicted in most heads") == 1
    assert "in most heads. 2 of 3 conditions: `knorm 0.5`, `random 0.5`.\n" in text
    assert "No run has a flag.\n" in text_of([make_result("none", 0.0, [True] * 12)])
    void = make_result("snapkv", 0.5, [True] * 12, flags=["kept_within_window"])
    assert "\n`snapkv 0.5` is no valid evidence about a press" in text_of([void])


def test_where_numbers_come_from_stands_in_the_setup():
    result = make_result("none", 0.0, [True] * 6)
    text = text_of([result])
    assert (
        f"| Code | commit `{'c' * 12}` |" in text
        and "| Machine | Linux, x, 2 cores, memory not noted" in text
    )
    made = result.provenance.model_copy(update={"clean": False})
    assert f"commit `{'c' * 12}` with changes |" in text_of([result.model_copy(update={"provenance": made})])
    machine = made.machine.model_copy(update={"load": 9.0, "memory_gib": 23.4})
    busy = result.model_copy(update={"provenance": made.model_copy(update={"machine": machine})})
    assert "the machine was crowded (load up to 9.0 on 2 cores)" in text_of([busy]) and "23 GiB" in text_of(
        [busy]
    )


def test_what_is_missing_is_named():
    grid = [{"press": "none"}, {"press": "knorm", "ratio": [0.25, 0.5]}]
    contrast = Contrast(about="A", first="knorm 0.25", second="knorm 0.5")
    spec = Experiment(name="made", objective="To see.", grid=grid, contrasts=[contrast], command="do it")
    results = [make_result("none", 0.0, [True] * 12), make_result("knorm", 0.5, [True] * 12)]
    text = text_of(results, spec)
    assert "**Not finished:** knorm 0.25.\n" in text and "| Command | `do it` |\n" in text
    assert "## Results\n\nNot yet compared, since a condition is missing: `knorm 0.25`" in text


def test_contrasts_thought_of_afterwards_are_marked():
    results = [make_result("none", 0.0, [True] * 12), make_result("knorm", 0.5, [False] * 12)]
    pair = {"first": "knorm 0.5", "second": "none"}
    contrasts = [Contrast(about="A", **pair), Contrast(about="B", **pair, planned=False)]
    spec = Experiment(name="made", objective="To see.", grid=[{"press": "none"}], contrasts=contrasts)
    text = text_of(results, spec)
    assert "| A | `knorm 0.5`" in text and "| B ‡ | `knorm 0.5`" in text
    assert "‡: compared after the runs were seen." in text
    assert "‡" not in text_of(results, spec.model_copy(update={"contrasts": contrasts[:1]}))


def test_a_condition_without_prefill_and_without_tokens_has_a_log():
    stops = dict.fromkeys(range(3), "error")
    broken = make_result("knorm", 0.5, [False] * 3, stops=stops, entropy={index: [] for index in range(3)})
    broken = change_records(broken, cache=None)
    summary = broken.summary.model_copy(update={"kept_tokens": None, "cache_bytes": None})
    results = [broken.model_copy(update={"summary": summary})]
    assert set(log.draw(results, analyse(results))) == {"outcomes", "heatmap", "modes"}
    text = text_of(results)
    assert "every denominator: `knorm 0.5`, prompt p/0: error, broken. `knorm 0.5`" in text
    assert "nan" not in text


def test_model_output_cannot_break_the_log():
    hostile = "````\n# heading\n\n\n<script>alert(1)</script> | a | b | {{ spec }}\n```"
    results = [
        make_result("none", 0.0, [True] * 6),
        make_result("knorm", 0.5, [False] * 6, {0: 4}, text=hostile),
    ]
    text = text_of(results)
    start = text.index("`````text\n")
    assert text[start:].startswith("`````text\n" + hostile[:4] + "⟦loop⟧" + hostile[4:] + "\n`````\n")


def test_a_home_folder_is_not_named(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    result = make_result("none", 0.0, [True] * 6)
    identity = result.identity | {"model_source": f"gguf of {tmp_path}/models/m.gguf"}
    away = result.model_copy(update={"identity": identity, "path": tmp_path / "results/m.json"})
    text = text_of([away])
    assert (
        str(tmp_path) not in text
        and "~/models/m.gguf" in text
        and "JSON and parquet, with their hashes: `~" in text
    )


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
