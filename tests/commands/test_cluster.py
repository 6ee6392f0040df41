"""A real Dask scheduler with workers in processes of their own, one of which is killed.

The model is tiny: what is looked at is who runs which prompt.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest
from assert_same import assert_same
from distributed import LocalCluster

from kvhelpers.commands import cluster
from kvhelpers.commands import run as runner
from kvhelpers.commands.run import run_conditions, run_shard
from kvhelpers.errors import InputError
from kvhelpers.experiment.checkpoint import Checkpoint
from kvhelpers.experiment.condition import make_condition
from kvhelpers.experiment.identity import identity_hash
from kvhelpers.experiment.results import find_finished, result_path
from kvhelpers.experiment.run import finish_condition, run_condition
from kvhelpers.generation.prefill import Prefiller
from kvhelpers.generation.self_check import check_model

VALUES = {
    "n_fewshot": 1,
    "n_prompts": 12,
    "max_new_tokens": 60,
    "ratio": 0.75,
    "batch_size": 2,
    "device": "cpu",
}


def condition_of(lm, **changes):
    return make_condition(VALUES | {"model": lm.name} | changes)


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
        processes.append(
            dask("worker", address, "--name", name, "--nthreads", "1", "--no-nanny", "--memory-limit", "0")
        )
    yield address, processes[1:]
    for process in processes:
        process.kill()
        process.wait()


def kill_in_the_middle(process, condition, before):
    """Kill a process once a few of a condition's prompts are saved; note their records."""
    checkpoint, deadline = Checkpoint(condition), time.monotonic() + 120
    while not 3 <= len(checkpoint.finished()) <= 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    before.extend(record for record, _ in checkpoint.load())


@pytest.mark.soak
def test_a_lost_worker_s_prompts_are_taken_up_by_another(scheduler, counting):
    address, workers = scheduler
    serial = run_condition(condition_of(counting, experiment="serial"), counting)
    condition, before = condition_of(counting, experiment="spread"), []
    killer = threading.Thread(target=kill_in_the_middle, args=(workers[0], condition, before))
    with cluster.connected(address) as client:
        client.wait_for_workers(2, timeout=60)
        killer.start()
        assert run_conditions(client, [condition]) == []
        killer.join()
    assert 3 <= len(before) < VALUES["n_prompts"] and workers[1].poll() is None
    spread = find_finished(condition)
    assert all(
        record in spread.records for record in before
    )  # times included: no finished prompt was generated again
    assert_same(spread, serial)
    assert result_path(condition).with_suffix(".ipynb").exists()


def test_a_task_that_is_repeated_goes_on_and_repeats_no_finished_prompt(output, counting, monkeypatch):
    """Dask repeats the task of a worker that was lost."""
    condition, save = condition_of(counting), Checkpoint.save
    monkeypatch.setattr(runner, "_tools", lambda *_: (counting, None))
    saved = []

    def lost_after_three(checkpoint, record, *rest):
        if len(saved) == 3:
            raise KeyboardInterrupt
        save(checkpoint, record, *rest)
        saved.append(record)

    task = condition.model_dump(), [*range(VALUES["n_prompts"])], (str(output), identity_hash(condition))
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", lost_after_three)
        with pytest.raises(KeyboardInterrupt):
            run_shard(*task)
    run_shard(*task)
    spread = finish_condition(condition)
    assert all(record in spread.records for record in saved)  # times included
    assert_same(spread, run_condition(condition_of(counting, experiment="serial"), counting))


DIES_ONCE = """
import os, pathlib, signal
if not (there := pathlib.Path({!r})).exists():
    there.touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_task_of_a_worker_that_is_killed_is_repeated(output):
    there = output / "there"
    with cluster.connected(workers=1) as client:
        assert client.submit(exec, DIES_ONCE.format(str(there)), {}).result(timeout=120) is None
    assert there.exists()


def test_a_worker_with_several_threads_is_refused():
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as local,
        pytest.raises(
            InputError, match="has 2 threads, which would share one model; start it with --nthreads 1"
        ),
        cluster.connected(local.scheduler_address),
    ):
        pass


def test_a_condition_that_is_finished_is_not_run_again_when_its_task_is_repeated(output, counting):
    condition = condition_of(counting, n_prompts=2, max_new_tokens=4)
    run_condition(condition, counting)
    run_shard(condition.model_dump(), [0, 1], (str(output), identity_hash(condition)))
    assert not list(output.rglob("*.partial"))


def test_a_worker_keeps_a_model_and_its_passes_from_one_condition_to_the_next(output, counting, monkeypatch):
    for attn in ("sdpa", "eager"):
        check_model(counting.attending(attn), pressed=True)  # it prefills too
    loaded, seen, prefill = [], [], Prefiller._run
    monkeypatch.setattr(runner, "_KEPT", {})

    def load(name, device, dtype):
        loaded.append(name)
        return replace(counting, dtype=counting.dtype if dtype == "auto" else dtype)

    monkeypatch.setattr(runner, "load_model", load)
    monkeypatch.setattr(
        Prefiller, "_run", lambda self, *args: seen.append(len(args[0])) or prefill(self, *args)
    )
    few = {"n_prompts": 3, "max_new_tokens": 4, "batch_size": 3}
    for values in ({"press": "none", "ratio": 0.0}, {}, {"press": "observed_attention"}, {"press": "knorm"}):
        condition = condition_of(counting, **few | values)
        run_shard(condition.model_dump(), [0, 1, 2], (str(output), identity_hash(condition)))
    assert len(loaded) == 1 and seen == [1, 3]  # the common beginning, then three endings, once
    assert len(Checkpoint(condition).finished()) == 3
    other = condition_of(counting, **few, dtype="bfloat16")
    run_shard(other.model_copy(update={"n_prompts": 3}).model_dump(), [], (str(output), identity_hash(other)))
    assert len(loaded) == 2 and len(runner._KEPT) == 1


def test_a_worker_of_another_version_or_place_is_refused(output):
    condition = make_condition(VALUES)
    with pytest.raises(InputError, match="a worker has other versions of this repository, transformers"):
        run_shard(condition.model_dump(), [0], (str(output), "0" * 64))
    with pytest.raises(InputError, match="a worker writes to .*, the runner to /elsewhere"):
        run_shard(condition.model_dump(), [0], ("/elsewhere", identity_hash(condition)))


def test_conditions_have_the_precision_of_the_workers(output, monkeypatch):
    """A runner without a GPU gives workers that have one what they would choose themselves."""
    monkeypatch.setattr(runner, "_dtype_here", lambda dtype, device: "float16")

    class Local:
        def submit(self, function, *arguments):
            return SimpleNamespace(result=lambda: function(*arguments))

    conditions = [make_condition(VALUES), make_condition(VALUES | {"press": "knorm"})]
    assert {condition.dtype for condition in runner._as_on_workers(Local(), conditions)} == {"float16"}


def test_a_scheduler_that_is_not_there_is_named(output, monkeypatch):
    monkeypatch.setattr(cluster, "ANSWER_S", 1)
    sentence = (
        "scheduler 'tcp://127.0.0.1:9' does not answer as one within 1 s; start one with 'dask scheduler'"
    )
    with pytest.raises(InputError, match=sentence), cluster.connected("tcp://127.0.0.1:9"):
        pass


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-x\r\n", b"\0" * 64],
    ids=("silent", "http", "ssh", "zeros"),
)
def test_a_port_that_is_silent_or_no_scheduler_s_is_not_waited_for(monkeypatch, answer):
    monkeypatch.setattr(cluster, "ANSWER_S", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, args=(server, answer), daemon=True).start()
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with (
            pytest.raises(
                InputError, match=f"scheduler '{address}' does not answer as one within 1 s; start"
            ),
            cluster.connected(address),
        ):
            pass


def accept(server, answer):
    """Say the same to whoever comes, and keep the connections until the server is closed."""
    connections = []
    while True:
        try:
            connections.append(server.accept()[0])
            connections[-1].sendall(answer)
        except OSError:
            return


def kill_new_workers(n):
    """Kill the next ``n`` processes that this one starts for Dask, as soon as they are there."""
    before, killed, deadline = set(children()), set(), time.monotonic() + 120
    while len(killed) < n and time.monotonic() < deadline:
        for process in set(children()) - before - killed:
            process.kill()
            killed.add(process)
        time.sleep(0.005)


def children():
    for process in psutil.Process().children(recursive=True):
        try:
            if "spawn_main" in " ".join(process.cmdline()):
                yield process
        except psutil.Error:  # it has just ended
            continue


@pytest.fixture
def killed_workers(request):
    thread = threading.Thread(target=kill_new_workers, args=(request.param,), daemon=True)
    thread.start()
    yield
    thread.join()


@pytest.mark.parametrize("killed_workers", [1], indirect=True)
def test_a_worker_killed_while_it_starts_does_not_end_the_run(killed_workers, capsys):
    with cluster.connected(workers=1) as client:
        assert client.submit(sum, [1, 2]).result(timeout=120) == 3
    assert capsys.readouterr().err == "a worker process died while it started; it is started again\n"


@pytest.mark.parametrize("killed_workers", [cluster.STARTS], indirect=True)
def test_workers_killed_again_and_again_are_no_traceback(killed_workers):
    with (
        pytest.raises(
            InputError, match="a worker process died while it started, again and again; .*run the same"
        ),
        cluster.connected(workers=1),
    ):
        pass


@pytest.mark.parametrize(("scheduler", "workers"), [(None, 0), ("tcp://127.0.0.1:9", 2)])
def test_workers_that_make_no_sense(scheduler, workers):
    with (
        pytest.raises(InputError, match=f"workers {workers} is not allowed"),
        cluster.connected(scheduler, workers),
    ):
        pass
