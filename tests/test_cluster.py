"""A real Dask scheduler with workers in processes of their own, one of which is killed."""

import json
import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from distributed import LocalCluster
from same import assert_same

from kvhelpers import cluster, runner
from kvhelpers.cell import run_cell
from kvhelpers.config import make_config
from kvhelpers.errors import InputError
from kvhelpers.results import Checkpoint, cell_path, find_finished
from kvhelpers.runner import run_cells, run_shard

VALUES = {"n_fewshot": 1, "n_prompts": 12, "max_new_tokens": 24, "ratio": 0.75, "batch_size": 2, "device": "cpu"}


def dask(*arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dask", *arguments, "--no-dashboard"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.fixture
def scheduler(output):
    """A scheduler's address and its two workers' processes; the output folder is theirs too."""
    file = output / "scheduler.json"
    processes = [dask("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file))]
    deadline = time.monotonic() + 60
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    address = json.loads(file.read_text())["address"]
    for name in ("first", "second"):
        processes.append(dask("worker", address, "--name", name, "--nthreads", "1", "--no-nanny", "--memory-limit", "0"))
    yield address, processes[1:]
    for process in processes:
        process.kill()
        process.wait()


def kill_in_the_middle(process, config, before):
    """Kill a process once a few of a cell's prompts are saved; note their records."""
    checkpoint, deadline = Checkpoint(config), time.monotonic() + 120
    while not 3 <= len(checkpoint.finished()) <= 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    before.extend(record for record, _ in checkpoint.load())


def test_a_lost_worker_s_prompts_are_taken_up_by_another(scheduler, embedded):
    address, workers = scheduler
    serial = run_cell(make_config(VALUES | {"experiment": "serial"}), embedded)
    config, before = make_config(VALUES | {"experiment": "spread"}), []
    killer = threading.Thread(target=kill_in_the_middle, args=(workers[0], config, before))
    with cluster.connected(address) as client:
        client.wait_for_workers(2, timeout=60)
        killer.start()
        assert run_cells(client, [config]) == []
        killer.join()
    assert 3 <= len(before) < VALUES["n_prompts"] and workers[1].poll() is None
    spread = find_finished(config)
    assert all(record in spread.records for record in before)  # times included: no finished prompt was generated again
    spread.data["config"]["experiment"] = "serial"
    assert_same(spread, serial)
    assert cell_path(config).with_suffix(".ipynb").exists()


def test_a_worker_with_several_threads_is_refused():
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as local,
        pytest.raises(InputError, match="has 2 threads, which would share one model; start it with --nthreads 1"),
        cluster.connected(local.scheduler_address),
    ):
        pass


def test_a_cell_that_is_finished_is_not_run_again_when_its_task_is_repeated(output, embedded):
    config = make_config(VALUES | {"n_prompts": 2, "max_new_tokens": 4})
    run_cell(config, embedded)
    assert run_shard(config.model_dump(), [0, 1], str(output)) == 0.0
    assert not list(output.rglob("*.partial"))


def test_cells_have_the_precision_of_the_workers(output, monkeypatch):
    """A runner without a GPU gives workers that have one what they would choose themselves."""
    monkeypatch.setattr(runner, "_dtype_here", lambda dtype, device: "float16")

    class Local:
        def submit(self, function, *arguments):
            return SimpleNamespace(result=lambda: function(*arguments))

    configs = [make_config(VALUES), make_config(VALUES | {"press": "knorm"})]
    assert {config.dtype for config in runner._as_on_workers(Local(), configs)} == {"float16"}


def test_a_scheduler_that_is_not_there_is_named(output, monkeypatch):
    monkeypatch.setattr(cluster, "ANSWER_S", 1)
    sentence = "scheduler 'tcp://127.0.0.1:9' does not answer within 1 s; start one with 'dask scheduler'"
    with pytest.raises(InputError, match=sentence), cluster.connected("tcp://127.0.0.1:9"):
        pass


@pytest.mark.parametrize(("scheduler", "workers"), [(None, 0), ("tcp://127.0.0.1:9", 2)])
def test_workers_that_make_no_sense(scheduler, workers):
    with pytest.raises(InputError, match=f"workers {workers} is not allowed"), cluster.connected(scheduler, workers):
        pass
