"""A sample says what its results say, without the lists and without texts that are not this project's own."""

import json
import shutil

import pandas as pd
import pytest
from factories import make_result
from samples import SAMPLES

from kvhelpers import frames
from kvhelpers.commands import sample
from kvhelpers.commands.sample import LEFT_OUT, RUNS, write_sample
from kvhelpers.errors import InputError
from kvhelpers.experiment.condition import make_condition
from kvhelpers.experiment.grid import finished_results
from kvhelpers.experiment.run import run_condition
from kvhelpers.paths import find_results, guard_path, results_dir, samples_dir

NAME = "002-compression-sweep"


def test_results_are_looked_for_in_own_runs_before_samples(output):
    assert find_results("002-compression-sweep") == samples_dir()
    assert find_results("nothing") == output / "data/results"
    assert find_results("002-compression-sweep", "data/samples") == samples_dir()
    (output / "data/results/002-compression-sweep").mkdir(parents=True)
    assert find_results("002-compression-sweep") == output / "data/results"


@pytest.mark.parametrize("name", SAMPLES)
def test_the_committed_table_of_runs_is_today_s(name):
    table = pd.read_parquet(samples_dir() / name / "runs.parquet")
    pd.testing.assert_frame_equal(table, frames.runs(finished_results(name, samples_dir()))[list(RUNS)])


def test_a_sample_is_the_results_without_the_lists(output, stand_in, monkeypatch):
    condition = make_condition(
        {"experiment": "small", "press": "knorm", "ratio": 0.5, "n_prompts": 2, "max_new_tokens": 4}
    )
    result = run_condition(condition, stand_in)
    monkeypatch.setattr("kvhelpers.commands.sample.samples_dir", lambda: output / "samples")
    folder = write_sample("small")
    (copied,) = finished_results("small", folder.parent)
    assert copied.model_dump() == result.model_dump() and copied.label == "knorm 0.5"
    pd.testing.assert_frame_equal(copied.signals(), result.signals().drop(columns=list(LEFT_OUT)))
    runs = pd.read_parquet(folder / "runs.parquet")
    assert runs["prompt_index"].tolist() == [0, 1] and set(runs["condition"]) == {"knorm 0.5"}
    assert runs["correct"].tolist() == [record.correct for record in result.records]
    assert len(pd.read_parquet(folder / runs["signals_file"][0])) == runs["tokens"].sum()


def test_a_sample_stays_where_the_new_one_cannot_be_whole(output, monkeypatch):
    """The JSON files are sound, a signals file is not: that is noticed when half of the sample is written."""
    for press in ("none", "knorm"):
        shutil.copytree(samples_dir() / NAME / press, results_dir(NAME) / press)
    monkeypatch.setattr("kvhelpers.commands.sample.samples_dir", lambda: output / "samples")
    folder = write_sample(NAME)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    next(results_dir(NAME).glob("knorm/*.parquet")).write_bytes(b"spoiled")
    with pytest.raises(InputError, match="was changed after it was written"):
        write_sample(NAME)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert [path.name for path in folder.parent.iterdir()] == [NAME]


def test_a_sample_has_no_prompt_of_others(output, stand_in, monkeypatch):
    source = output / "problems.jsonl"
    problems = [
        {"question": f"Bob has {n} rare cats. How many?", "answer": f"He has {n}.\n#### {n}"}
        for n in range(9)
    ]
    source.write_text("\n".join(map(json.dumps, problems)))
    values = {"experiment": "small", "press": "none", "n_prompts": 2, "n_fewshot": 1, "max_new_tokens": 4}
    result = run_condition(make_condition(values | {"task": "gsm8k", "data_file": str(source)}), stand_in)
    monkeypatch.setattr("kvhelpers.commands.sample.samples_dir", lambda: output / "samples")
    folder = write_sample("small")
    (copied,) = finished_results("small", folder.parent)
    assert "rare cats" in result.path.read_text()
    assert not any("rare cats" in path.read_bytes().decode(errors="replace") for path in folder.rglob("*.*"))
    ours, theirs = (frames.runs([one]).drop(columns="question") for one in (copied, result))
    assert ours.equals(theirs)


def test_conditions_are_told_apart_in_the_table():
    result = make_result("snapkv", 0.5, [True, False], {1: 3}, press_kwargs={"window_size": 8})
    runs = frames.runs([result])
    assert set(runs["press_kwargs"]) == {'{"window_size": 8}'} and set(runs["kept_tokens"]) == {50}
    assert runs["detected"].tolist()[1] == result.records[1].failures.loop_detected
    assert runs["stop_reason"].tolist() == ["eos", "max_new_tokens"]


def test_a_study_s_sample_is_its_file(output, monkeypatch, tmp_path):
    study = guard_path("011-what-an-action-can-do", samples_dir())
    own = guard_path("made")
    own.parent.mkdir(parents=True)
    own.write_bytes(study.read_bytes())
    monkeypatch.setattr(sample, "samples_dir", lambda: tmp_path / "samples")
    folder = write_sample("made")
    assert [path.name for path in folder.iterdir()] == ["guard.json.gz"]
    assert (folder / "guard.json.gz").read_bytes() == study.read_bytes()
