"""Workers that run conditions: a local Dask cluster, by default one worker per GPU, or a scheduler that is
already there.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import dask
import psutil
import torch
from distributed import Client, Nanny, Scheduler, SpecCluster
from distributed.comm import connect

from kvhelpers.errors import InputError

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None

ANSWER_S = 10
WORKERS_S = 60
STARTS = 3  # of a local cluster, when a worker dies while it starts
ROOM = 2**30  # bytes that the smallest model takes in a worker, beside what this process has loaded too


@contextmanager
def connected(scheduler: str | None = None, workers: int | None = None) -> Iterator[Client]:
    """A client of the scheduler at this address, or of a local cluster of so many workers that ends with the
    context.

    Raises
    ------
    InputError : nothing answers at the address, or it has no worker; workers below 1, or for a scheduler that
        has its own; a limit on memory that no local worker can keep; a local worker that dies while it
        starts, again and again.
    """
    if workers is not None and (scheduler is not None or workers < 1):
        raise InputError(
            f"workers {workers} is not allowed; it is at least 1, and left out with a scheduler, which "
            "has its own"
        )
    if scheduler is None:
        _check_memory_limit()
        with _started(workers) as cluster, Client(cluster) as client:
            yield client
        return
    try:
        _greet(scheduler)
        client = Client(scheduler, timeout=ANSWER_S)
    except Exception as error:  # whatever listens there may answer anything
        raise InputError(
            f"scheduler {scheduler!r} does not answer as one within {ANSWER_S} s; start one with "
            "'dask scheduler', or leave --scheduler out to use this machine"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=WORKERS_S)
        except TimeoutError as error:
            raise InputError(
                f"scheduler {scheduler!r} has no worker after {WORKERS_S} s; start one with "
                "'dask worker ADDRESS --nthreads 1'"
            ) from error
        for worker in client.scheduler_info(n_workers=-1)["workers"].values():
            if worker["nthreads"] != 1:
                raise InputError(
                    f"worker {worker['name']!r} of scheduler {scheduler!r} has {worker['nthreads']} threads, "
                    "which would share one model; start it with --nthreads 1"
                )
        yield client


def _check_memory_limit() -> None:
    """Refuse a limit under which a worker runs out of memory while it loads its libraries: Python may then
    turn in circles instead of failing.
    """
    if resource is None or (limit := resource.getrlimit(resource.RLIMIT_AS)[0]) == resource.RLIM_INFINITY:
        return
    needed = psutil.Process().memory_info().vms + ROOM
    if limit < needed:
        raise InputError(
            f"memory is limited to {limit / 2**30:.1f} GiB (ulimit -v), and a worker needs at least "
            f"{needed / 2**30:.1f} GiB; raise the limit"
        )


def _greet(address: str) -> None:
    """Exchange greetings with a scheduler; `Client` would wait for its answer for ever."""

    async def greet() -> None:
        comm = await connect(address, timeout=ANSWER_S)
        await comm.close()

    with ThreadPoolExecutor(1) as thread:  # this one may have an event loop already, as in a notebook
        thread.submit(asyncio.run, asyncio.wait_for(greet(), ANSWER_S)).result()


def _started(workers: int | None) -> SpecCluster:
    """A local cluster; it is started again if a worker dies before it is ready, which Dask does not mend."""
    for left in reversed(range(STARTS)):
        try:
            return _local_cluster(workers)
        except (RuntimeError, OSError, TimeoutError) as error:
            if not left:
                raise InputError(
                    "a worker process died while it started, again and again; the machine may be out of "
                    "memory; what was finished is kept: run the same command again"
                ) from error
            print("a worker process died while it started; it is started again", file=sys.stderr)


def preloads() -> list[str]:
    """What a local worker loads first: `worker`, and what Dask's own configuration names, which is a text
    where an environment variable says it.
    """
    others = dask.config.get("distributed.worker.preload")
    return ["kvhelpers.commands.worker", *([others] if isinstance(others, str) else others)]


def _local_cluster(workers: int | None) -> SpecCluster:
    """Workers in processes of their own, restarted when they die, that share this machine's GPUs and cores
    evenly.
    """
    gpus = torch.cuda.device_count()
    workers = workers or max(1, gpus)
    options = {"nthreads": 1, "memory_limit": 0, "dashboard": False, "host": "127.0.0.1"}
    options["preload"] = preloads()
    specs = {
        index: {
            "cls": Nanny,
            "options": options | {"env": {"CUDA_VISIBLE_DEVICES": str(index % gpus)} if gpus else {}},
        }
        for index in range(workers)
    }
    # its HTTP server too: by default at a port of all interfaces, which another run may have
    scheduler_options = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
    scheduler = {"cls": Scheduler, "options": scheduler_options | {"host": "127.0.0.1", "port": 0}}
    threads = max(1, (os.cpu_count() or 1) // workers)
    # by default one thread each, even for a lone worker, and a page of messages; errors reach the runner
    environment = {"OMP_NUM_THREADS": threads, "DASK_LOGGING__DISTRIBUTED": "critical"}
    with dask.config.set({"distributed.nanny.pre-spawn-environ": environment}):
        return SpecCluster(workers=specs, scheduler=scheduler, silence_logs=logging.CRITICAL)
