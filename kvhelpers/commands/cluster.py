"""Workers that run conditions: a local Dask cluster, by default one worker per GPU, or a scheduler that is
already there.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import dask
import torch
from distributed import Client, Nanny, Scheduler, SpecCluster

from kvhelpers.errors import InputError

ANSWER_S = 10
WORKERS_S = 60


@contextmanager
def connected(scheduler: str | None = None, workers: int | None = None) -> Iterator[Client]:
    """A client of the scheduler at this address, or of a local cluster of so many workers that ends with the
    context.

    Raises
    ------
    InputError : nothing answers at the address, or it has no worker; workers below 1, or for a scheduler that
        has its own.
    """
    if workers is not None and (scheduler is not None or workers < 1):
        raise InputError(
            f"workers {workers} is not allowed; it is at least 1, and left out with a scheduler, which "
            "has its own"
        )
    if scheduler is None:
        with _local_cluster(workers) as cluster, Client(cluster) as client:
            yield client
        return
    try:
        client = Client(scheduler, timeout=ANSWER_S)
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(
            f"scheduler {scheduler!r} does not answer within {ANSWER_S} s; start one with 'dask scheduler', "
            "or leave --scheduler out to use this machine"
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


def _local_cluster(workers: int | None) -> SpecCluster:
    """Workers in processes of their own, restarted when they die, that share this machine's GPUs and cores
    evenly.
    """
    gpus = torch.cuda.device_count()
    workers = workers or max(1, gpus)
    options = {"nthreads": 1, "memory_limit": 0, "dashboard": False, "host": "127.0.0.1"}
    specs = {
        index: {
            "cls": Nanny,
            "options": options | {"env": {"CUDA_VISIBLE_DEVICES": str(index % gpus)} if gpus else {}},
        }
        for index in range(workers)
    }
    scheduler = {"cls": Scheduler, "options": {"dashboard": False, "host": "127.0.0.1", "port": 0}}
    threads = max(1, (os.cpu_count() or 1) // workers)
    # by default one thread each, even for a lone worker, and a page of messages
    environment = {"OMP_NUM_THREADS": threads, "DASK_LOGGING__DISTRIBUTED": "error"}
    with dask.config.set({"distributed.nanny.pre-spawn-environ": environment}):
        return SpecCluster(workers=specs, scheduler=scheduler, silence_logs=logging.ERROR)
