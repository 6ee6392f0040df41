"""The command line: what it says, what it runs, and what it leaves when something is wrong."""

import os
import re
import subprocess
import sys

import pytest
from filelock import FileLock

from kvhelpers.__main__ import main
from kvhelpers.commands import run as runner
from kvhelpers.experiment.grid import find_experiment, load_experiment
from kvhelpers.experiment.run import run_condition
from kvhelpers.paths import log_path, results_dir


def test_bad_command_lines(capsys, output):
    assert main(["run", "x.yaml", "--name", "n", "--set", "novalue"]) == 2
    assert "--set 'novalue' is no key=value" in capsys.readouterr().err
    assert main(["log", "nothing-there"]) == 2


def test_conditions_of_another_experiment_are_found_before_anything_runs(write, output, embedded, capsys):
    run_condition(load_experiment(write()).conditions()[0], embedded)
    odd = run_condition(load_experiment(write(), "odd", {"seed": 7}).conditions()[1], embedded)
    stray = results_dir("small") / "random" / "stray.json"
    stray.parent.mkdir()
    stray.write_text(odd.path.read_text())
    assert main(["run", str(write())]) == 2
    assert re.search(
        "already holds .*stray.json with another configuration \\(seed 7 → 42\\)", capsys.readouterr().err
    )


def test_every_set_counts(write, monkeypatch, output):
    seen = {}
    monkeypatch.setattr(
        "kvhelpers.commands.run.run_experiment",
        lambda experiment, *_: seen.update(experiment.parameters) or output,
    )
    assert (
        main(
            ["run", str(write()), "--name", "other", "--set", "seed=1", "--set", "n_prompts=3", "n_fewshot=0"]
        )
        == 0
    )
    assert (seen["seed"], seen["n_prompts"], seen["n_fewshot"]) == (1, 3, 0)


def test_an_experiment_runs_once_and_logs(write, output, capsys, monkeypatch):
    path = write()
    assert main(["run", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "experiments/small.md" in printed and log_path("small").exists()
    executed = sorted(
        p.relative_to(results_dir("small")).as_posix() for p in results_dir("small").rglob("*.ipynb")
    )
    assert executed == ["knorm/smollm2-135m_0.5_2p.ipynb", "none/smollm2-135m_0_2p.ipynb"]
    log = log_path("small").read_text()
    assert "See that it runs." in log and log.index("| none |") < log.index("| knorm |")
    monkeypatch.setattr(runner, "run_conditions", lambda *_: pytest.fail("a finished condition ran again"))
    assert main(["run", str(path)]) == 0
    assert log_path("small").read_text() == log
    assert find_experiment("small").objective == "See that it runs."


def test_one_failing_condition_is_named_and_the_others_go_on(write, output, capsys):
    results_dir("small").mkdir(parents=True)
    (results_dir("small") / "none").write_text("a file where the condition's folder should be")
    assert main(["run", str(write())]) == 2
    assert re.search(
        "1 of 2 conditions failed: none: (FileExists|NotADirectory)Error", capsys.readouterr().err
    )
    assert "**Not finished:** none." in log_path("small").read_text()


def test_a_dry_run_tells_what_is_left_and_writes_nothing(write, output, capsys, embedded):
    path = write()
    before = sorted(output.rglob("*"))
    assert main(["run", str(path), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert re.search(
        r"2 of 2 conditions with 4 prompts to do, about \d+ min on one worker \(at most", printed
    )
    assert sorted(output.rglob("*")) == before
    run_condition(load_experiment(path).conditions()[1], embedded)
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


def test_a_disk_that_takes_no_more_is_named_and_nothing_is_lost(write, output, embedded):
    """A limit on the size of files stands for a full disk: writing fails in the middle of a file."""
    run_condition(load_experiment(write()).conditions()[0], embedded)
    assert main(["log", "small"]) == 0
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    run = subprocess.run([sys.executable, "-c", FULL], capture_output=True, text=True, env=dict(os.environ))
    assert run.returncode == 2 and re.search(
        r"kvhelpers: error: File too large.*; what was finished is kept\n$", run.stderr
    )
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before
