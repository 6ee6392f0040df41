"""The command line: what it says, what it runs, and what it leaves when something is wrong."""

import os
import re
import subprocess
import sys
from contextlib import contextmanager

import pytest
from distributed import Client, LocalCluster
from filelock import FileLock

from kvhelpers.__main__ import main
from kvhelpers.commands import run as runner
from kvhelpers.experiment.grid import find_experiment, load_experiment
from kvhelpers.experiment.results import read_result
from kvhelpers.experiment.run import run_condition
from kvhelpers.paths import log_path, results_dir


def test_bad_command_lines(capsys, output):
    assert main(["run", "x.yaml", "--name", "n", "--set", "novalue"]) == 2
    assert "--set 'novalue' is no key=value" in capsys.readouterr().err
    assert main(["log", "nothing-there"]) == 2


@pytest.mark.parametrize("overrides", [[], ["--set", "seed=1"]])
def test_an_empty_name_does_not_run_under_the_original_one(write, output, capsys, overrides, monkeypatch):
    """``--name "$UNSET"`` is an empty name."""
    monkeypatch.setattr("kvhelpers.commands.run.run_experiment", lambda *_: pytest.fail("it runs"))
    before = [*output.rglob("*"), write()]
    assert main(["run", str(write()), "--name", "", *overrides]) == 2
    assert "experiment '' is not allowed" in capsys.readouterr().err
    assert sorted(output.rglob("*")) == sorted(before)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("seed=", "--set 'seed=' has no value; write null for none"),
        ("data_file= ", "--set 'data_file= ' has no value"),
        ("seed=1 seed=2", "--set gives 'seed' twice"),
        ("seed=[", "--set 'seed': the value is no YAML"),
        ("seed={a: 1, a: 2}", "--set 'seed': the value is no YAML: line 1 gives the key 'a' a second time"),
        ("seed=!!set {a}", "--set 'seed': the value {'a'} is not allowed: it is neither"),
        ("seed=.nan", "--set 'seed': the value nan is not allowed: it is no finite number"),
        ("seed=" + "[" * 5000, "--set 'seed': the value is no YAML: it is nested too deeply"),
        ("model=\udcff", "--set 'model': the value is no YAML: unacceptable character"),
        ("n_prompts=1:30", "n_prompts '1:30' is not allowed"),
        ("multiturn=yes", "multiturn 'yes' is not allowed"),
        ("model=2024-01-01", "model '2024-01-01' is no existing folder"),
    ],
)
def test_bad_overrides_get_one_sentence(write, output, capsys, override, sentence):
    given = re.split(r" (?=\w+=)", override)
    assert main(["run", str(write()), "--name", "other", "--set", *given]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


@pytest.mark.parametrize("command", ["log", "rescore", "sample"])
@pytest.mark.parametrize("name", ["", "../x", "a" * 300, "a" * 5000, "\udcff", "a\0b"])
def test_names_that_are_none_get_one_sentence(output, capsys, command, name):
    assert main([command, name]) == 2
    error = capsys.readouterr().err
    assert re.search("experiment .* is not allowed: a name has letters", error) and error.count("\n") == 1
    assert list(output.iterdir()) == []


def test_a_bad_file_beside_results_is_named_by_log(write, output, stand_in, capsys):
    run_condition(load_experiment(write()).conditions()[0], stand_in)
    (results_dir("small") / "experiment.yaml").write_text(
        "{name: small, objective: x, grid: [{press: none}], parameters: {n_prompts: many}}"
    )
    capsys.readouterr()
    assert main(["log", "small"]) == 2
    error = capsys.readouterr().err
    assert re.search("results/small/experiment.yaml'.* n_prompts 'many' is not allowed", error)
    assert error.count("\n") == 1 and not log_path("small").exists()


def test_conditions_of_another_experiment_are_found_before_anything_runs(write, output, stand_in, capsys):
    run_condition(load_experiment(write()).conditions()[0], stand_in)
    odd = run_condition(load_experiment(write(), "odd", {"seed": 7}).conditions()[1], stand_in)
    stray = results_dir("small") / "random" / "stray.json"
    stray.parent.mkdir()
    stray.write_text(odd.path.read_text())
    assert main(["run", str(write())]) == 2
    assert re.search(r"random/stray.json belongs to odd/knorm/\S+.json; move it", capsys.readouterr().err)


def test_every_set_counts(write, monkeypatch, output):
    seen = {}
    monkeypatch.setattr(
        "kvhelpers.commands.run.run_experiment",
        lambda experiment, *_: seen.update(experiment.parameters) or output,
    )
    monkeypatch.setattr("kvhelpers.experiment.grid.finished_results", lambda name: [])
    monkeypatch.setattr("kvhelpers.log.screen_text", lambda results: "")
    assert (
        main(
            ["run", str(write()), "--name", "other", "--set", "seed=1", "--set", "n_prompts=3", "n_fewshot=0"]
        )
        == 0
    )
    assert (seen["seed"], seen["n_prompts"], seen["n_fewshot"]) == (1, 3, 0)


def test_an_experiment_goes_on_runs_once_and_logs(write, output, embedded, capsys, monkeypatch):
    path = write()
    finished = run_condition(load_experiment(path).conditions()[0], embedded)
    finished.path.with_suffix(".ipynb").touch()
    capsys.readouterr()
    assert main(["run", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "experiments/small.md" in printed and log_path("small").exists()
    assert (
        re.search(r"^ *knorm 0.5 .*\[.* of .* 2 ", printed, re.MULTILINE)
        and "Look next at knorm 0.5" in printed
    )
    executed = sorted(path.parent.name for path in results_dir("small").rglob("*.ipynb"))
    assert executed == ["knorm", "none"] and finished == read_result(finished.path)
    log = log_path("small").read_text()
    assert "See that it runs." in log and log.index("| none |") < log.index("| knorm 0.5 |")
    monkeypatch.setattr(runner, "run_conditions", lambda *_: pytest.fail("a finished condition ran again"))
    assert main(["run", str(path)]) == 0
    assert log_path("small").read_text() == log
    assert find_experiment("small").objective == "See that it runs."


@pytest.fixture
def one_process(stand_in, monkeypatch):
    """Conditions run in this process, with the model that is loaded; no notebook is executed."""

    @contextmanager
    def connected(*_):
        options = {"processes": False, "n_workers": 1, "threads_per_worker": 1, "dashboard_address": None}
        with LocalCluster(**options) as cluster, Client(cluster) as client:
            yield client

    monkeypatch.setattr(runner, "connected", connected)
    monkeypatch.setattr(runner, "_KEPT", {})
    monkeypatch.setattr(runner, "load_model", lambda *_: stand_in)
    monkeypatch.setattr(runner, "execute", lambda condition: None)


def test_one_failing_condition_is_named_and_the_others_go_on(write, output, capsys, one_process):
    results_dir("small").mkdir(parents=True)
    (results_dir("small") / "none").write_text("a file where the condition's folder should be")
    assert main(["run", str(write())]) == 2
    assert re.search(
        "1 of 2 conditions failed: none: (FileExists|NotADirectory)Error", capsys.readouterr().err
    )
    assert "Not finished: `none`." in log_path("small").read_text()


def test_a_dry_run_tells_what_is_left_and_writes_nothing(write, output, capsys, stand_in):
    path = write()
    before = sorted(output.rglob("*"))
    assert main(["run", str(path), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert re.search(
        r"2 of 2 conditions with 4 prompts to do, about \d+ min on one worker \(at most", printed
    )
    assert sorted(output.rglob("*")) == before
    run_condition(load_experiment(path).conditions()[1], stand_in)
    assert main(["run", str(path), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert re.search(
        r"1 of 2 conditions with 2 prompts to do, .*\d s a prompt in the 1 finished conditions", printed
    )
    assert re.search(r"knorm 0.5 +2 +2\n", printed) and re.search(r"none +2 +0\n", printed)


def test_one_runner_at_a_time(write, output, capsys):
    results_dir("small").mkdir(parents=True)
    with FileLock(results_dir("small") / ".lock"):
        assert main(["run", str(write())]) == 2
    assert "experiment 'small' is being run by another process; wait until it ends" in capsys.readouterr().err
    assert [path.name for path in results_dir("small").iterdir()] == [".lock"]


FULL = (
    "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)); "
    "from kvhelpers.__main__ import main; sys.exit(main(['log', 'small']))"
)


def test_a_disk_that_takes_no_more_is_named_and_nothing_is_lost(write, output, stand_in):
    """A limit on the size of files stands for a full disk: writing fails in the middle of a file."""
    run_condition(load_experiment(write()).conditions()[0], stand_in)
    assert main(["log", "small"]) == 0
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    run = subprocess.run([sys.executable, "-c", FULL], capture_output=True, text=True, env=dict(os.environ))
    assert run.returncode == 2 and re.search(
        r"kvhelpers: error: File too large.*; what was finished is kept\n$", run.stderr
    )
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before
