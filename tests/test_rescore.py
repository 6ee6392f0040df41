"""Saved answers judged again, without a model."""

import json

import pytest

from kvhelpers import failures
from kvhelpers.__main__ import main
from kvhelpers.cell import run_cell
from kvhelpers.config import make_config
from kvhelpers.paths import log_path
from kvhelpers.rescore import rescore
from kvhelpers.results import read_cell


@pytest.fixture
def finished(output, embedded):
    values = {"press": "snapkv", "ratio": 0.875, "n_prompts": 4, "n_fewshot": 1, "max_new_tokens": 80, "device": "cpu"}
    return run_cell(make_config(values), embedded)


def test_the_same_rules_change_nothing(finished):
    before = finished.path.read_bytes()
    assert rescore("scratch") == (0, 4)
    assert finished.path.read_bytes() == before


def test_spoiled_judgements_are_made_right_again(finished):
    data = json.loads(finished.path.read_text())
    data["records"][0] |= {"correct": True, "answer": None}
    data["records"][1]["failures"]["looping"] = not data["records"][1]["failures"]["looping"]
    data["summary"]["accuracy"] = None
    finished.path.write_text(json.dumps(data))
    assert rescore("scratch") == (2, 4)
    assert read_cell(finished.path).data == finished.data


def test_another_loop_detector_remakes_summary_and_log(finished, monkeypatch, capsys):
    looping = finished.summary["looping"]["count"]
    real = failures.find_window_loop
    monkeypatch.setattr(failures, "find_window_loop", lambda ids: real(ids, repeats=1000))
    assert looping > 0 and main(["rescore", "scratch"]) == 0
    assert f"{looping} of 4 runs changed" in capsys.readouterr().out
    again = read_cell(finished.path)
    assert again.summary["looping"]["count"] == 0 and "No run loops." in log_path("scratch").read_text()
    assert again.signals().equals(finished.signals())


def test_an_experiment_without_results_is_named(output, capsys):
    assert main(["rescore", "nothing"]) == 2
    assert "experiment 'nothing' has no finished cell" in capsys.readouterr().err
