"""``kill -9`` again and again: the results are an undisturbed run's, and no finished prompt runs twice."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import kill_moments
import pytest
import yaml
from assert_same import assert_same

from kvhelpers.experiment.checkpoint import Checkpoint
from kvhelpers.experiment.grid import finished_results, load_experiment
from kvhelpers.experiment.results import find_finished
from kvhelpers.paths import figures_dir, log_path, results_dir

KILLS = 10
EXPERIMENT = {
    "name": "undisturbed",
    "objective": "See that nothing is lost.",
    "parameters": {"n_prompts": 6, "n_fewshot": 1, "max_new_tokens": 32, "batch_size": 3, "device": "cpu"},
    "grid": [{"press": "none"}, {"press": ["knorm", "streaming_llm"], "ratio": 0.75}],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An output folder with an experiment file and its undisturbed run."""
    place = tmp_path_factory.mktemp("kill")
    (place / "experiment.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KVHELPERS_OUTPUT", str(place))
        assert start(place, "-m", "kvhelpers", name="undisturbed").wait() == 0
        yield place


@pytest.fixture(scope="module")
def first_prompt(place):
    """Seconds from the start of a run to its first finished prompt, on this machine."""
    started = time.monotonic()
    process = start(place, "-m", "kvhelpers", name="timed")
    while not list(place.glob("data/results/timed/*/*.partial/*.parquet")):
        assert process.poll() is None, "it ended without a prompt"
        time.sleep(0.1)
    seconds = time.monotonic() - started
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    shutil.rmtree(place / "data" / "results" / "timed")
    return seconds


def start(place, *how, name):
    """Start the experiment under a name, in a process group of its own."""
    command = [sys.executable, *how, "run", str(place / "experiment.yaml"), "--name", name]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, env=dict(os.environ), start_new_session=True, **quiet)


def conditions(place, name):
    return load_experiment(place / "experiment.yaml", name).conditions()


def records_of(condition):
    """The prompts that a condition has finished so far."""
    finished = find_finished(condition)
    return finished.records if finished else [record for record, _ in Checkpoint(condition).load()]


def assert_undisturbed(place, name, seen):
    """After one more run, everything is as in the undisturbed one; ``seen`` are records that were there at a
    kill.
    """
    assert start(place, "-m", "kvhelpers", name=name).wait() == 0
    for condition, record in seen:
        assert record in find_finished(condition).records  # times included: it was not generated again
    for killed, undisturbed in zip(finished_results(name), finished_results("undisturbed"), strict=True):
        assert_same(killed, undisturbed)
        assert killed.path.with_suffix(".ipynb").exists()
    assert log_text(name) == log_text("undisturbed")
    of_name = [path for folder in (results_dir(name), figures_dir(name)) for path in folder.rglob("*")]
    assert [path for path in of_name if path.suffix == ".partial" or re.match(r"\..*-", path.name)] == []


def log_text(name):
    """An experiment's log without its name and without what differs from run to run."""
    varying = r"^\| (Command|Rows decoded together|Time) \|.*$"
    return re.sub(varying, "", log_path(name).read_text(), flags=re.MULTILINE).replace(name, "")


@pytest.mark.parametrize(
    "moment", kill_moments.MOMENTS, ids=lambda moment: f"{moment.phase}-{moment.function}"
)
def test_each_scheduled_moment_is_of_a_function_that_is_there(moment):
    owner, name = kill_moments.find(moment)
    assert callable(getattr(owner, name))


@pytest.mark.soak
def test_ten_kills_of_the_runner_at_random_change_nothing(place, first_prompt):
    moments, seen, killed, names = random.Random(0), {}, 0, ["random-0"]
    while killed < KILLS:
        process = start(place, "-m", "kvhelpers", name=names[-1])
        try:
            assert process.wait(moments.uniform(2, 2 * first_prompt)) == 0
            names.append(f"random-{len(names)}")  # it came to its end: another one
        except subprocess.TimeoutExpired:
            process.kill()  # its workers are left to notice
            process.wait()
            killed += 1
            there = [
                (condition, record)
                for condition in conditions(place, names[-1])
                for record in records_of(condition)
            ]
            seen.setdefault(names[-1], []).extend(there)
    assert any(seen.values())
    for name in seen:
        assert_undisturbed(place, name, seen[name])


@pytest.mark.soak
def test_a_kill_at_each_scheduled_moment_changes_nothing(place, capsys):
    seen, phases = [], [moment.phase for moment in kill_moments.MOMENTS]
    for number, moment in enumerate(kill_moments.MOMENTS):
        assert start(place, kill_moments.__file__, str(number), name="scheduled").wait() == -9, moment
        seen += [
            (condition, record)
            for condition in conditions(place, "scheduled")
            for record in records_of(condition)
        ]
    assert seen
    assert_undisturbed(place, "scheduled", seen)
    with capsys.disabled():
        counts = ", ".join(f"{phases.count(phase)} in {phase}" for phase in dict.fromkeys(phases))
        print(f"\nkilled {len(phases)} times: {counts}")
