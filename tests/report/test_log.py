"""The log is whole, keeps what people wrote, and refuses results that do not hold together."""

import copy
import json
import re
import shutil

import pandas as pd
import pyarrow.parquet as pq
import pytest
from factories import change_records, make_result

from kvhelpers.analysis.analyse import analyse
from kvhelpers.errors import InputError
from kvhelpers.experiment.grid import Contrast, Experiment
from kvhelpers.paths import samples_dir
from kvhelpers.report import log

SAMPLE = "002-compression-sweep"
SECTIONS = [
    "Objective",
    "Setup",
    "Compression configurations",
    "Results",
    "Statistics",
    "Result files",
    "Signal analysis",
    "Failure modes",
    "Conclusions",
    "Next steps",
]


def text_of(results, spec=None):
    return log.log_text(results, spec, analyse(results), {}, {})


def test_written_prose_survives_and_nothing_else(output, monkeypatch):
    results = [make_result("none", 0.0, [True] * 6), make_result("knorm", 0.5, [False] * 6, {0: 4})]
    monkeypatch.setattr(log, "finished_results", lambda experiment, root: copy.copy(results))
    path = log.write_log("made")
    first = path.read_text()
    assert (output / "figures/made/outcomes.svg").exists() and (output / "figures/made/trace.png").exists()
    assert log.write_log("made").read_text() == first
    assert re.findall(r"^## (.*)$", first, re.MULTILINE) == SECTIONS
    assert "\n\n\n" not in first and first.endswith("<!-- /prose -->\n")
    edited = first.replace("<!-- prose:notes -->\n", "<!-- prose:notes -->\nMine, with \\1 and $.\n")
    assert edited != first
    path.write_text(edited.replace("prompts are solved", "prompts are unsolved"))
    assert log.write_log("made").read_text() == edited


def test_conditions_of_which_the_same_is_to_be_said_share_a_line():
    flagged = [make_result(press, 0.5, [True] * 12, flags=["sink_evicted"]) for press in ("knorm", "random")]
    text = text_of([make_result("none", 0.0, [True] * 12), *flagged])
    assert "- `knorm 0.5`, `random 0.5`: keeps 50.0 of 100.0 prompt tokens" in text
    assert "in so many runs: `knorm 0.5` 12/12, `random 0.5` 12/12.\n" in text


def test_what_is_missing_is_named():
    grid = [{"press": "none"}, {"press": "knorm", "ratio": [0.25, 0.5]}]
    contrast = Contrast(about="A", first="knorm 0.25", second="knorm 0.5")
    spec = Experiment(name="made", objective="To see.", grid=grid, contrasts=[contrast], command="do it")
    results = [make_result("none", 0.0, [True] * 12), make_result("knorm", 0.5, [True] * 12)]
    text = text_of(results, spec)
    assert "**Not finished:** knorm 0.25.\n" in text and "- **Command:** `do it`\n" in text
    assert "### Answer\n\nNot yet compared, since a condition is missing: `knorm 0.25`" in text


def test_a_condition_without_prefill_and_without_tokens_has_a_log():
    stops = dict.fromkeys(range(3), "error")
    broken = make_result("knorm", 0.5, [False] * 3, stops=stops, entropy={index: [] for index in range(3)})
    broken = change_records(broken, cache=None)
    summary = broken.summary.model_copy(update={"kept_tokens": None, "cache_bytes": None})
    results = [broken.model_copy(update={"summary": summary})]
    assert set(log.draw(results, analyse(results))) == {"outcomes", "heatmap", "modes"}
    text = text_of(results)
    assert "- `knorm 0.5`: no prompt could be prefilled\n" in text
    assert "**Errored or timed out:** `knorm 0.5`, prompt p/0: error, broken. `knorm 0.5`" in text
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
    assert str(tmp_path) not in text and "~/models/m.gguf" in text and "`~/results/m.json`" in text


def test_no_condition_no_log(output):
    with pytest.raises(InputError, match="experiment 'nothing' has no finished condition"):
        log.write_log("nothing")
    assert list(output.iterdir()) == []


@pytest.fixture
def copied(output):
    """A copy of two conditions of the repository's sample, to be spoiled."""
    for press in ("none", "expected_attention"):
        shutil.copytree(samples_dir() / SAMPLE / press, output / "data/results/spoiled" / press)
    return output / "data/results/spoiled"


def truncate(folder):
    path = next(folder.glob("none/*.parquet"))
    path.write_bytes(path.read_bytes()[:-100])


def drop_rows(folder):
    path = next(folder.glob("none/*.parquet"))
    pd.read_parquet(path).iloc[:-3].to_parquet(path)


def drop_column(folder):
    path = next(folder.glob("none/*.parquet"))
    pq.write_table(pq.read_table(path).drop_columns(["margin"]), path)


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
        (drop_column, "has no column 'margin'; it has prompt_index"),
        (other_schema, "has schema version 1; this version reads 2"),
        (garble, "is no readable condition result"),
    ],
)
def test_spoiled_results_are_refused_and_nothing_is_written(copied, output, spoil, sentence):
    spoil(copied)
    with pytest.raises(InputError, match=sentence):
        log.write_log("spoiled")
    assert sorted(path.name for path in output.iterdir()) == ["data"]
