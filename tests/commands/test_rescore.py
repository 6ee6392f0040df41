"""Saved answers judged again, without a model."""

import json

import pytest

from kvhelpers.__main__ import main
from kvhelpers.commands.rescore import rescore, rescored
from kvhelpers.errors import InputError
from kvhelpers.experiment.condition import make_condition
from kvhelpers.experiment.results import read_result
from kvhelpers.experiment.run import run_condition
from kvhelpers.experiment.seal import sealed
from kvhelpers.paths import log_path
from kvhelpers.records import FailureMode, StopReason
from kvhelpers.scoring import failures
from kvhelpers.scoring.failure_modes import failure_mode


def run(lm):
    values = {
        "press": "snapkv",
        "ratio": 0.875,
        "n_prompts": 4,
        "n_fewshot": 1,
        "max_new_tokens": 80,
        "device": "cpu",
    }
    return run_condition(make_condition(values), lm)


@pytest.fixture
def finished(output, stand_in):
    return run(stand_in)


def test_the_same_rules_change_nothing(finished):
    before = finished.path.read_bytes()
    assert rescore("scratch") == (0, 4)
    assert finished.path.read_bytes() == before


def test_spoiled_judgements_are_made_right_again(finished):
    data = json.loads(finished.path.read_text())
    data["records"][0] |= {"correct": True, "loop_onset_char": 77}
    data["records"][1]["failures"]["looping"] = not data["records"][1]["failures"]["looping"]
    data["summary"]["accuracy"]["count"] = 99
    finished.path.write_text(json.dumps(sealed(data, finished.signals_path)))
    assert rescore("scratch") == (2, 4)
    assert read_result(finished.path) == finished


def test_a_record_without_its_question_gets_the_mode_that_its_new_judgement_says(finished):
    told = failure_mode(finished.records[0], finished.examples)
    records = [r.model_copy(update={"question": None, "mode": told}) for r in finished.records]
    right = records[0].model_copy(update={"text": "#### 8", "reference": "8", "stop_reason": StopReason.EOS})
    wrong = right.model_copy(update={"text": "#### 9"})

    def modes(*changed):
        result = finished.model_copy(update={"records": changed})
        return [record.mode for record in rescored(result, finished.signals()[:0])]

    old = {"mode": FailureMode.CORRUPTION}
    assert modes(right.model_copy(update=old), wrong.model_copy(update=old)) == ["correct", old["mode"]]
    with pytest.raises(InputError, match="is wrong by today's rules, and its question was left out"):
        modes(wrong.model_copy(update={"mode": FailureMode.CORRECT}))


def test_another_loop_detector_remakes_summary_and_log(output, embedded, monkeypatch, capsys):
    finished = run(embedded)
    looping = finished.summary.looping.count
    assert main(["log", "scratch"]) == 0
    before = log_path("scratch").read_text()
    capsys.readouterr()
    real = failures.find_window_loop
    monkeypatch.setattr(failures, "find_window_loop", lambda ids: real(ids, repeats=1000))
    assert looping > 0 and main(["rescore", "scratch"]) == 0
    assert f"{looping} of 4 runs changed" in capsys.readouterr().out
    again = read_result(finished.path)
    assert again.summary.looping.count == 0
    assert "**Looping**" in before and "**Looping**" not in log_path("scratch").read_text()
    assert again.signals().equals(finished.signals())


def test_an_experiment_without_results_is_named(output, capsys):
    assert main(["rescore", "nothing"]) == 2
    assert "experiment 'nothing' has no finished condition" in capsys.readouterr().err
