"""Run an experiment: its conditions' prompts as tasks on workers, the notebook by papermill for each finished
condition, then the log.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path

import papermill
from distributed import Client, Future, wait
from distributed.scheduler import KilledWorker
from filelock import FileLock, Timeout
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm
from traitlets.config import Config

from kvhelpers.commands.cluster import connected
from kvhelpers.errors import InputError, is_out_of_memory
from kvhelpers.experiment.checkpoint import Checkpoint
from kvhelpers.experiment.condition import Condition, make_condition
from kvhelpers.experiment.grid import Experiment, save_experiment
from kvhelpers.experiment.identity import identity_hash
from kvhelpers.experiment.results import check_same_experiment, find_finished, result_path
from kvhelpers.experiment.run import check_before_loading, finish_condition, run_prompts
from kvhelpers.generation.passes import Passes
from kvhelpers.log import write_log
from kvhelpers.models.device import resolve_device, resolve_dtype
from kvhelpers.models.load import LanguageModel, load_model
from kvhelpers.paths import notebook_path, output_root, results_dir, temporary_beside

NOTEBOOK = "01_reproduce"
UNMANNED_S = 180  # seconds without a worker, after which none is expected to come back
POLL_S = 1
_KEPT: dict[tuple[str, ...], tuple[LanguageModel, Passes]] = {}  # of this worker process
# kernels started at once race for TCP ports
KERNEL = Config({} if os.name == "nt" else {"KernelManager": {"transport": "ipc"}})


def run_experiment(experiment: Experiment, scheduler: str | None = None, workers: int | None = None) -> Path:
    """Run every unfinished condition and render the log; return its path. All conditions are checked before
    the first one runs.

    ``scheduler`` is the address of a Dask scheduler whose workers see the same folders; None starts so many
    ``workers`` on this machine.

    Raises
    ------
    InputError : a bad condition (nothing has run then), a scheduler that is not there, another runner at work
        on the experiment, or conditions that failed, named with their errors after all others ran.
    """
    conditions = list(map(check_before_loading, experiment.conditions()))
    failed: list[str] = []
    if scheduler is not None or not all(map(_is_done, conditions)):
        with connected(scheduler, workers) as client, _only_runner(experiment.name):
            if scheduler is not None:
                conditions = _as_on_workers(client, conditions)
            check_same_experiment(conditions[0])
            missing = [condition for condition in conditions if not _is_done(condition)]
            if missing:
                save_experiment(experiment)
                done = len(conditions) - len(missing)
                failed = run_conditions(client, missing, experiment.command, done, experiment.name)
    save_experiment(experiment)
    if not notebook_path(NOTEBOOK).exists():
        print(
            f"kvhelpers: no executed notebooks were made: {notebook_path(NOTEBOOK)} is not there; a clone of "
            "the repository has it, an installed package does not",
            file=sys.stderr,
        )
    if len(failed) == len(conditions):
        raise InputError(f"experiment {experiment.name!r}: every condition failed: " + "; ".join(failed))
    path = write_log(experiment.name)
    if failed:
        raise InputError(
            f"experiment {experiment.name!r}: {len(failed)} of {len(conditions)} conditions failed: "
            + "; ".join(failed)
        )
    return path


def _is_done(condition: Condition) -> bool:
    """Whether a condition is finished and its notebook, where there is one, executed."""
    executed = _notebook(condition).exists() or not notebook_path(NOTEBOOK).exists()
    return find_finished(condition) is not None and executed


def _notebook(condition: Condition) -> Path:
    return result_path(condition).with_suffix(".ipynb")


@contextmanager
def _only_runner(name: str) -> Iterator[None]:
    """Refuse to run an experiment that another process is running; a killed one's lock is gone with it."""
    results_dir(name).mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(results_dir(name) / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise InputError(
            f"experiment {name!r} is being run by another process; wait until it ends, or run it under "
            "another --name"
        ) from error


def run_conditions(
    client: Client,
    conditions: Sequence[Condition],
    command: str | None = None,
    finished: int = 0,
    name: str = "",
) -> list[str]:
    """Run conditions on a client's workers, with progress; return the failed ones with their reasons.

    ``command`` is noted in their results; ``finished`` others of the experiment ``name`` are done already.

    No more conditions are in work than there are workers, so that a condition is closed before the next one
    is begun. Where there are more workers than conditions, a condition's prompts are shared among several. A
    task whose worker is lost is given to another one, which goes on after the last prompt that was saved.
    """
    waiting = deque(Checkpoint(condition) for condition in conditions)
    for checkpoint in waiting:
        checkpoint.forget_errored()
    shards = max(1, math.ceil(_workers(client) / max(1, len(conditions))))
    pending: dict[Future, Checkpoint] = {}
    failed, n_closed, manned = [], 0, time.monotonic()
    total, ready = sum(condition.n_prompts for condition in conditions), sum(map(_prompts_ready, waiting))
    with (
        tqdm(total=len(conditions) + finished, initial=finished, desc=name, unit="condition") as closed,
        tqdm(total=total, initial=ready, desc="prompts", unit="prompt", position=1, leave=False) as prompts,
    ):
        while pending or waiting:
            while waiting and len(pending) < max(1, _workers(client)):
                checkpoint = waiting.popleft()
                pending[_submit(client, checkpoint.condition, shards, command)] = checkpoint
            manned = time.monotonic() if _workers(client) else manned
            if time.monotonic() - manned > UNMANNED_S:
                raise InputError(
                    f"no worker has been left for {UNMANNED_S} s; the machine may be out of memory; what was "
                    "finished is kept: run the same command again"
                )
            for future in _completed(pending):
                condition = pending.pop(future).condition
                n_closed += condition.n_prompts
                if future.status != "finished":
                    failed.append(f"{condition.label()}: {_reason(future)}")
                closed.update()
            prompts.n = n_closed + sum(map(_prompts_ready, [*pending.values(), *waiting]))
            prompts.refresh()
    return failed


def _workers(client: Client) -> int:
    return len(client.scheduler_info(n_workers=-1)["workers"])


def _completed(pending: Mapping[Future, Checkpoint]) -> list[Future]:
    """Those that have come to an end, after a wait of at most a second for the first."""
    try:
        wait(list(pending), timeout=POLL_S, return_when="FIRST_COMPLETED")
    except TimeoutError:
        pass
    except CancelledError as error:
        raise InputError(
            "the scheduler was lost; what was finished is kept: run the same command again"
        ) from error
    return [future for future in pending if future.done()]


def _prompts_ready(checkpoint: Checkpoint) -> int:
    closed = result_path(checkpoint.condition).exists()
    return checkpoint.condition.n_prompts if closed else len(checkpoint.finished())


def _submit(client: Client, condition: Condition, shards: int, command: str | None) -> Future:
    values, n = condition.model_dump(), condition.n_prompts
    place = (str(output_root()), identity_hash(condition))
    parts = [
        client.submit(run_shard, values, list(range(first, n, shards)), place, pure=False)
        for first in range(min(shards, n))
    ]
    return client.submit(finish, values, parts, place, command, pure=False)


def run_shard(values: dict, indices: list[int], place: tuple[str, str]) -> None:
    """A task: run some prompts of a condition on this worker.

    Dask repeats a task whose result was lost with its worker; the condition may be finished by then.
    """
    condition = _condition_here(values, place)
    if find_finished(condition) is None:
        lm, passes = _tools(condition.model, condition.device, condition.dtype)
        lm = lm.attending(condition.asked_attention)
        for _ in run_prompts(condition, lm, indices, passes):
            pass


def finish(values: dict, parts: Sequence[None], place: tuple[str, str], command: str | None) -> None:
    """A task: make a condition's results of its prompts, once its ``parts`` have run, and execute its
    notebook.
    """
    condition = _condition_here(values, place)
    if find_finished(condition) is None:
        finish_condition(condition, command)
    Checkpoint(condition).remove()
    execute(condition)


def _condition_here(values: dict, place: tuple[str, str]) -> Condition:
    """The condition on this worker, if it is here what it is for the runner: ``place`` is the folder of the
    runner's output and the condition's `identity_hash` there.
    """
    output, expected = place
    if str(output_root()) != output:
        raise InputError(
            f"a worker writes to {output_root()}, the runner to {output}: start workers in the same "
            "repository, with the same KVHELPERS_OUTPUT"
        )
    condition = make_condition(values)
    if identity_hash(condition) != expected:
        raise InputError(
            "a worker has other versions of this repository, transformers, kvpress, the model or the data "
            "than the runner: start workers in the same repository and environment"
        )
    return condition


def _tools(*model: str) -> tuple[LanguageModel, Passes]:
    """What a worker keeps from one condition to the next: the model, loaded once, and its passes. Those of
    another model go first: both may not fit into memory.
    """
    if model not in _KEPT:
        _KEPT.clear()
        lm = load_model(*model)
        _KEPT[model] = lm, Passes.of_several_conditions(lm.device, output_root())
    return _KEPT[model]


def _as_on_workers(client: Client, conditions: Sequence[Condition]) -> list[Condition]:
    """The conditions with ``dtype`` as it is where they will run, which may have a GPU that this machine
    lacks.
    """
    dtype = client.submit(_dtype_here, conditions[0].dtype, conditions[0].device).result()
    return [condition.model_copy(update={"dtype": dtype}) for condition in conditions]


def _dtype_here(dtype: str, device: str) -> str:
    return resolve_dtype(dtype, resolve_device(device))


def execute(condition: Condition) -> Path | None:
    """Execute the notebook for one finished condition; the executed copy lies beside the condition's results.
    None where there is no notebook, as beside an installed package.

    Raises
    ------
    RuntimeError : the notebook failed, its copy is then called ``.failed.ipynb``; or its kernel died.
    """
    if not notebook_path(NOTEBOOK).exists():
        return None
    target = _notebook(condition)
    temporary, failed = temporary_beside(target), target.with_suffix(".failed.ipynb")
    parameters = condition.model_dump() | {"write_log": False}
    try:
        papermill.execute_notebook(
            notebook_path(NOTEBOOK),
            temporary,
            parameters=parameters,
            kernel_name="python3",
            progress_bar=False,
            config=KERNEL,
        )
    except PapermillExecutionError as error:
        temporary.replace(failed)
        raise RuntimeError(f"{error.ename}: {error.evalue}") from error
    except DeadKernelError as error:
        raise RuntimeError("the notebook's kernel died; the machine may have run out of memory") from error
    else:
        temporary.replace(target)
        failed.unlink(missing_ok=True)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _reason(future: Future) -> str:
    error = future.exception()
    if isinstance(error, KilledWorker):
        return "its workers died again and again; the machine may have run out of memory"
    if is_out_of_memory(error):
        return f"the machine ran out of memory ({str(error) or type(error).__name__})"
    return str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
