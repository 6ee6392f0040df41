"""What a machine does to a run: signals, a full or read-only disk, folders that go, too little memory, a
second runner. Each ends in a sentence, and the same command then ends with an undisturbed run's results.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml
from assert_same import assert_same

from kvhelpers.experiment.checkpoint import Checkpoint
from kvhelpers.experiment.grid import finished_results, load_experiment

pytestmark = pytest.mark.soak
EXPERIMENT = {
    "name": "fault",
    "objective": "See that nothing is lost.",
    "parameters": {"n_prompts": 6, "n_fewshot": 1, "max_new_tokens": 64, "batch_size": 2, "device": "cpu"},
    "grid": [{"press": "none"}, {"press": "knorm", "ratio": 0.75}],
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The results of a run to which nothing happens."""
    place = tmp_path_factory.mktemp("undisturbed")
    assert command(place).run()[0] == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KVHELPERS_OUTPUT", str(place))
        results = finished_results("fault")
    return [(result, result.signals()) for result in results]


class command:
    """``python -m kvhelpers run`` of the experiment in a process group of its own, its output in a place."""

    def __init__(self, place, before=""):
        file = place.parent / "fault.yaml"
        file.write_text(yaml.safe_dump(EXPERIMENT))
        run = f"{before} exec {sys.executable} -m kvhelpers run {file}"
        environment = os.environ | {"KVHELPERS_OUTPUT": str(place)}
        how = {"env": environment, "start_new_session": True, "text": True, "stderr": subprocess.PIPE}
        # a job in the background would ignore it
        how["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
        self.place = place
        self.process = subprocess.Popen(["bash", "-c", run], stdout=subprocess.DEVNULL, **how)

    def run(self):
        """The exit status, and the last line of stderr."""
        _, told = self.process.communicate(timeout=600)
        lines = [line for line in told.replace("\r", "\n").splitlines() if line.strip()]
        return self.process.returncode, lines[-1] if lines else "", told

    def wait_for_a_prompt(self):
        while not list(self.place.glob("data/results/fault/*/*.partial/*.parquet")):
            assert self.process.poll() is None, "it ended without a prompt"
            time.sleep(0.05)


def assert_whole(place, undisturbed, monkeypatch):
    """The same command again ends with the undisturbed run's results."""
    assert command(place).run()[0] == 0
    monkeypatch.setenv("KVHELPERS_OUTPUT", str(place))
    results = finished_results("fault")
    assert len(results) == len(undisturbed)
    for result, (expected, signals) in zip(results, undisturbed, strict=True):
        assert [record.text for record in result.records] == [record.text for record in expected.records]
        assert result.signals()["token_id"].equals(signals["token_id"])
    assert not list(place.rglob("*.partial"))


@contextlib.contextmanager
def disk(place, options):
    """A disk of its own at a place; only root may have one."""
    place.mkdir(exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_that_goes_on_later(tmp_path, undisturbed, monkeypatch, number):
    place = tmp_path / "out"
    place.mkdir()
    running = command(place)
    running.wait_for_a_prompt()
    os.killpg(running.process.pid, number)
    assert running.run()[0] != 0
    assert_whole(place, undisturbed, monkeypatch)


def test_a_full_disk_is_named_and_room_mends_it(tmp_path, undisturbed, monkeypatch):
    place = tmp_path / "out"
    with disk(place, "size=60k"):
        status, last, _ = command(place).run()
        assert status == 2 and last.startswith("kvhelpers: error: ") and "No space left on device" in last
        subprocess.run(["mount", "-o", "remount,size=64m", place], check=True)
        assert_whole(place, undisturbed, monkeypatch)


def test_a_read_only_disk_is_named(tmp_path):
    place = tmp_path / "out"
    with disk(place, "ro"):
        status, last, told = command(place).run()
    assert status == 2 and last.startswith("kvhelpers: error: Read-only file system")
    assert "Traceback" not in told


def test_output_that_is_deleted_in_the_middle_is_made_again(tmp_path, undisturbed, monkeypatch):
    place = tmp_path / "out"
    place.mkdir()
    running = command(place)
    running.wait_for_a_prompt()
    shutil.rmtree(place / "data", ignore_errors=True)
    _, _, told = running.run()
    assert "Traceback" not in told
    assert_whole(place, undisturbed, monkeypatch)


def test_too_little_memory_is_named(tmp_path, undisturbed, monkeypatch):
    place = tmp_path / "out"
    place.mkdir()
    status, last, told = command(place, before="ulimit -v 2500000;").run()
    assert status != 0 and last.startswith("kvhelpers: error: ") and "Traceback" not in told
    assert_whole(place, undisturbed, monkeypatch)


def test_a_second_runner_is_refused_and_a_notebook_beside_it_does_no_harm(tmp_path, undisturbed, monkeypatch):
    place = tmp_path / "out"
    place.mkdir()
    first = command(place)
    first.wait_for_a_prompt()
    status, last, _ = command(place).run()
    assert status == 2 and "is being run by another process" in last
    monkeypatch.setenv("KVHELPERS_OUTPUT", str(place))
    condition = load_experiment(place.parent / "fault.yaml").conditions()[1]
    beside = (
        "from kvhelpers.experiment import make_condition, run_condition; run_condition(make_condition({!r}))"
    )
    notebook = subprocess.Popen([sys.executable, "-c", beside.format(condition.model_dump())])
    assert first.run()[0] == 0 and notebook.wait() == 0
    assert not Checkpoint(condition).folder.exists()
    assert_whole(place, undisturbed, monkeypatch)
    same = {result.label: result for result, _ in undisturbed}[condition.label()]
    assert_same(next(r for r in finished_results("fault") if r.label == condition.label()), same)
