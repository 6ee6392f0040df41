"""Results that do not hold together are refused with one sentence."""

import json
import shutil

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from made import make_cell

from kvhelpers import log
from kvhelpers.analysis import analyse
from kvhelpers.cell import run_cell
from kvhelpers.config import make_config
from kvhelpers.errors import InputError
from kvhelpers.experiment import finished_cells
from kvhelpers.paths import find_results, samples_dir
from kvhelpers.runs import runs_table, signal_arrays
from kvhelpers.samples import LEFT_OUT, write_sample

SAMPLE = "002-compression-sweep"


@pytest.fixture
def copied(output):
    """A copy of two cells of the repository's sample, to be spoiled."""
    for press in ("none", "expected_attention"):
        shutil.copytree(samples_dir() / SAMPLE / press, output / "data/results/spoiled" / press)
    return output / "data/results/spoiled"


def test_runs_and_signals_of_the_sample():
    cells = finished_cells(SAMPLE, samples_dir())
    runs, arrays = runs_table(cells), signal_arrays(cells, ["entropy"])["entropy"]
    assert len(runs) == len(arrays) == sum(cell.summary["n"] for cell in cells)
    assert (np.isfinite(arrays).sum(1) == runs["tokens"]).all()
    first = cells[0].signals(["prompt_index", "entropy"])
    assert arrays[0, : runs["tokens"][0]] == pytest.approx(first.loc[first["prompt_index"] == 0, "entropy"].to_numpy())
    assert runs.groupby("cell", sort=False)["looping"].sum().tolist() == [c.summary["looping"]["count"] for c in cells]
    assert (runs["onset"].notna() == runs["looping"]).all()


def test_cells_whose_flags_invalidate_them_are_left_out_but_counted():
    flagged = make_cell("snapkv", 0.5, [False] * 8, {0: 5, 1: 7}, flags=["kept_within_window"])
    found = analyse([make_cell("none", 0.0, [True] * 8), flagged])
    assert found.left_out == ["snapkv 0.5"] and len(found.runs) == 16
    assert not len(found.aligned["entropy"]) and set(found.discriminators["n"]) == {8, 0} - {0}
    weak = analyse([make_cell("none", 0.0, [False] * 8), make_cell("knorm", 0.5, [False] * 8, {0: 5})])
    assert weak.left_out == []  # a weak baseline takes the meaning out of accuracies, not out of loops


def test_results_are_found_in_own_runs_before_samples(copied):
    assert find_results("spoiled") == copied.parent
    assert find_results(SAMPLE) == samples_dir()
    assert find_results("nothing") == copied.parent
    assert find_results(SAMPLE, "data/samples") == samples_dir()


def test_a_sample_is_the_results_without_the_lists(output, embedded, monkeypatch):
    config = make_config({"experiment": "small", "press": "knorm", "ratio": 0.5, "n_prompts": 2, "max_new_tokens": 4})
    result = run_cell(config, embedded)
    monkeypatch.setattr("kvhelpers.samples.samples_dir", lambda: output / "samples")
    folder = write_sample("small")
    (copied,) = finished_cells("small", folder.parent)
    assert copied.data == result.data and copied.label == "knorm 0.5"
    pd.testing.assert_frame_equal(copied.signals(), result.signals().drop(columns=list(LEFT_OUT)))
    runs = pd.read_parquet(folder / "runs.parquet")
    assert runs["prompt_index"].tolist() == [0, 1] and set(runs["cell"]) == {"knorm 0.5"}
    assert runs["correct"].tolist() == [record["correct"] for record in result.records]
    assert len(pd.read_parquet(folder / runs["signals_file"][0])) == runs["tokens"].sum()


def test_a_sample_has_no_prompt_of_others(output, embedded, monkeypatch):
    source = output / "problems.jsonl"
    lines = [{"question": f"Bob has {n} rare cats. How many?", "answer": f"He has {n}.\n#### {n}"} for n in range(9)]
    source.write_text("\n".join(map(json.dumps, lines)))
    values = {"experiment": "small", "press": "none", "n_prompts": 2, "n_fewshot": 1, "max_new_tokens": 4}
    result = run_cell(make_config(values | {"task": "gsm8k", "data_file": str(source)}), embedded)
    monkeypatch.setattr("kvhelpers.samples.samples_dir", lambda: output / "samples")
    folder = write_sample("small")
    (copied,) = finished_cells("small", folder.parent)
    assert "rare cats" in result.path.read_text()
    assert not any("rare cats" in path.read_bytes().decode(errors="replace") for path in folder.rglob("*.*"))
    assert runs_table([copied]).equals(runs_table([result]))


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
        (drop_rows, "has \\d+ tokens of prompt onestep/42/\\d+, its results say \\d+; delete both and run the cell again"),
        (drop_column, "has no column 'margin'; it has prompt_index"),
        (other_schema, "has schema version 1; this version reads 2"),
        (garble, "is no readable cell result"),
    ],
)
def test_spoiled_results_are_refused_and_nothing_is_written(copied, output, spoil, sentence):
    spoil(copied)
    with pytest.raises(InputError, match=sentence):
        log.write_log("spoiled")
    assert sorted(path.name for path in output.iterdir()) == ["data"]


@pytest.mark.parametrize("quantile", [0.5, 1, 1.5, "high", True, None])
def test_a_quantile_that_is_none_is_refused(quantile):
    with pytest.raises(InputError, match=r"quantile .* is not allowed; it is a share of the uncompressed tokens"):
        analyse([make_cell("none", 0.0, [True])], quantile)


@pytest.mark.parametrize("name", ["../elsewhere", "", 5, None])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(InputError, match="experiment .* is not allowed"):
        finished_cells(name)
