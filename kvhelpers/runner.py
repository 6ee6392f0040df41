"""Run an experiment: its cells' prompts as tasks on workers, the notebook by papermill for each finished cell, then the log."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import papermill
from distributed import Client, Future, wait
from distributed.scheduler import KilledWorker
from filelock import FileLock, Timeout
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm
from traitlets.config import Config

from kvhelpers.cell import finish_cell, run_prompts
from kvhelpers.cluster import connected
from kvhelpers.config import CellConfig, make_config
from kvhelpers.errors import InputError
from kvhelpers.experiment import Experiment, save_experiment
from kvhelpers.log import write_log
from kvhelpers.models import LanguageModel, load_model, resolve_device, resolve_dtype
from kvhelpers.paths import figures_dir, notebook_path, output_root, relative, results_dir, temporary_beside
from kvhelpers.results import Checkpoint, cell_path, check_cells, find_finished

NOTEBOOK = "01_reproduce"
POLL_S = 1
# kernels started at once race for TCP ports
KERNEL = Config({} if os.name == "nt" else {"KernelManager": {"transport": "ipc"}})


def run_experiment(experiment: Experiment, scheduler: str | None = None, workers: int | None = None) -> Path:
    """Run every unfinished cell and render the log; return its path. All cells are checked before the first one runs.

    ``scheduler`` is the address of a Dask scheduler whose workers see the same folders; None starts so many ``workers`` on this
    machine.

    Raises
    ------
    InputError : a bad cell (nothing has run then), a scheduler that is not there, another runner at work on the experiment, or
        cells that failed, named with their errors after all others ran.
    """
    configs = experiment.configs()
    failed: list[str] = []
    if scheduler is not None or not all(map(_is_done, configs)):
        with connected(scheduler, workers) as client, _only_runner(experiment.name):
            if scheduler is not None:
                configs = _as_on_workers(client, configs)
            check_cells(configs[0])
            missing = [config for config in configs if not _is_done(config)]
            if missing:
                save_experiment(experiment)
                failed = run_cells(client, missing, len(configs) - len(missing), experiment.name)
    save_experiment(experiment)
    if len(failed) == len(configs):
        raise InputError(f"experiment {experiment.name!r}: every cell failed: " + "; ".join(failed))
    path = write_log(experiment.name)
    if failed:
        raise InputError(f"experiment {experiment.name!r}: {len(failed)} of {len(configs)} cells failed: " + "; ".join(failed))
    return path


def _is_done(config: CellConfig) -> bool:
    """Whether a cell is finished and its notebook executed."""
    return find_finished(config) is not None and _notebook(config).exists()


def _notebook(config: CellConfig) -> Path:
    return cell_path(config).with_suffix(".ipynb")


@contextmanager
def _only_runner(name: str) -> Iterator[None]:
    """Refuse to run an experiment that another process is running; a killed one's lock is gone with it."""
    results_dir(name).mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(results_dir(name) / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise InputError(
            f"experiment {name!r} is being run by another process; wait until it ends, or run it under another --name"
        ) from error


def run_cells(client: Client, configs: Sequence[CellConfig], finished: int = 0, name: str = "") -> list[str]:
    """Run cells on a client's workers, with progress; return the failed ones with their reasons.

    Where there are more workers than cells, a cell's prompts are shared among several. A task whose worker is lost is given to
    another one, which goes on after the last prompt that was saved.
    """
    shards = math.ceil(len(client.scheduler_info(n_workers=-1)["workers"]) / max(1, len(configs)))
    checkpoints = [Checkpoint(config) for config in configs]
    for checkpoint in checkpoints:
        checkpoint.forget_failed()
    pending = {_submit(client, one.config, min(shards, one.config.n_prompts)): one for one in checkpoints}
    failed, ready = [], sum(map(_prompts_ready, checkpoints))
    total = sum(config.n_prompts for config in configs)
    with (
        tqdm(total=len(configs) + finished, initial=finished, desc=name, unit="cell") as cells,
        tqdm(total=total, initial=ready, desc="prompts", unit="prompt", position=1, leave=False) as prompts,
    ):
        done = 0
        while pending:
            try:
                wait(list(pending), timeout=POLL_S, return_when="FIRST_COMPLETED")
            except TimeoutError:
                pass
            except CancelledError as error:
                raise InputError("the scheduler was lost; what was finished is kept: run the same command again") from error
            for future in [future for future in pending if future.done()]:
                config = pending.pop(future).config
                done += config.n_prompts
                if future.status != "finished":
                    failed.append(f"{config.label()}: {_reason(future)}")
                cells.update()
            prompts.n = done + sum(map(_prompts_ready, pending.values()))
            prompts.refresh()
    return failed


def _prompts_ready(checkpoint: Checkpoint) -> int:
    return checkpoint.config.n_prompts if cell_path(checkpoint.config).exists() else len(checkpoint.finished())


def _submit(client: Client, config: CellConfig, shards: int) -> Future:
    values, place = config.model_dump(), str(output_root())
    parts = [
        client.submit(run_shard, values, list(range(first, config.n_prompts, shards)), place, pure=False)
        for first in range(shards)
    ]
    return client.submit(finish, values, parts, place, pure=False)


def run_shard(values: dict, indices: list[int], place: str) -> float:
    """A task: run some prompts of a cell on this worker; return the seconds it took.

    Dask repeats a task whose result was lost with its worker; the cell may be finished by then.
    """
    config, started = _config_here(values, place), time.monotonic()
    if find_finished(config) is not None:
        return 0.0
    for _ in run_prompts(config, _loaded(config), indices):
        pass
    return time.monotonic() - started


def finish(values: dict, seconds: Sequence[float], place: str) -> None:
    """A task: make the cell of its prompts and execute its notebook."""
    config = _config_here(values, place)
    if find_finished(config) is None:
        finish_cell(config, _loaded(config), sum(seconds))
    Checkpoint(config).remove()
    execute(config)


def _config_here(values: dict, place: str) -> CellConfig:
    if str(output_root()) != place:
        raise InputError(
            f"a worker writes to {output_root()}, the runner to {place}: start workers in the same repository, with the same "
            "KVHELPERS_OUTPUT"
        )
    return make_config(values)


def _loaded(config: CellConfig) -> LanguageModel:
    return _model(config.model, config.device, config.dtype, config.prefill_attention)


_model = lru_cache(maxsize=1)(load_model)  # a worker loads a model once, not once per cell


def _as_on_workers(client: Client, configs: Sequence[CellConfig]) -> list[CellConfig]:
    """The cells with ``dtype`` as it is where they will run, which may have a GPU that this machine lacks."""
    dtype = client.submit(_dtype_here, configs[0].dtype, configs[0].device).result()
    return [config.model_copy(update={"dtype": dtype}) for config in configs]


def _dtype_here(dtype: str, device: str) -> str:
    return resolve_dtype(dtype, resolve_device(device))


def execute(config: CellConfig) -> Path:
    """Execute the notebook for one finished cell; the executed copy lies beside the cell's results.

    Raises
    ------
    RuntimeError : the notebook failed, its copy is then called ``.failed.ipynb``; or its kernel died.
    """
    target = _notebook(config)
    temporary, failed = temporary_beside(target), target.with_suffix(".failed.ipynb")
    parameters = config.model_dump() | {"write_log": False}
    try:
        papermill.execute_notebook(
            notebook_path(NOTEBOOK), temporary, parameters=parameters, kernel_name="python3", progress_bar=False, config=KERNEL
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
    return str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"


def where(path: Path, experiment: str) -> str:
    """Lines that say where the log, the figures and the results are."""
    figures, results = relative(figures_dir(experiment)), relative(results_dir(experiment))
    return f"log: {relative(path)}\nfigures: {figures}/\nresults and executed notebooks: {results}/"
