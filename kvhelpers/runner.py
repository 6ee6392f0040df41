"""Run an experiment: the notebook by papermill for each cell that is not finished, then the log."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from pathlib import Path

import papermill
from nbclient.exceptions import CellExecutionError, DeadKernelError
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from kvhelpers.config import CellConfig
from kvhelpers.errors import InputError
from kvhelpers.experiment import Experiment, save_experiment
from kvhelpers.log import write_log
from kvhelpers.paths import figures_dir, notebook_path, relative, results_dir
from kvhelpers.results import Checkpoint, cell_path, find_finished

NOTEBOOK = "01_reproduce"


def run_experiment(experiment: Experiment) -> Path:
    """Run every unfinished cell and render the log; return its path. All cells are checked before the first one runs.

    Raises
    ------
    InputError : a bad cell (nothing has run then), or cells that failed, named with their errors after all others ran.
    """
    configs = experiment.configs()
    missing = [config for config in configs if find_finished(config) is None]
    save_experiment(experiment)
    failed = []
    with tqdm(total=len(configs), initial=len(configs) - len(missing), desc=experiment.name, unit="cell") as cells:
        for config in missing:
            try:
                with _prompt_bar(config):
                    execute(config)
            except (PapermillExecutionError, CellExecutionError, DeadKernelError, RuntimeError, OSError) as error:
                failed.append(f"{config.label()}: {_reason(error)}")
            cells.update()
    if len(failed) == len(configs):
        raise InputError(f"experiment {experiment.name!r}: every cell failed: " + "; ".join(failed))
    path = write_log(experiment.name)
    if failed:
        raise InputError(f"experiment {experiment.name!r}: {len(failed)} of {len(configs)} cells failed: " + "; ".join(failed))
    return path


def execute(config: CellConfig) -> Path:
    """Execute the notebook for one cell; the executed copy lies beside the cell's results."""
    target = cell_path(config).with_suffix(".ipynb")
    temporary = target.with_name(f".{os.getpid()}-{target.name}")
    target.parent.mkdir(parents=True, exist_ok=True)
    parameters = config.model_dump()
    try:
        papermill.execute_notebook(
            notebook_path(NOTEBOOK), temporary, parameters=parameters, kernel_name="python3", progress_bar=False
        )
    except BaseException:
        if temporary.exists():
            temporary.replace(target.with_suffix(".failed.ipynb"))
        raise
    temporary.replace(target)
    return target


@contextmanager
def _prompt_bar(config: CellConfig):
    """Progress over a cell's prompts, read from its checkpoints, since the kernel is another process."""
    stop, folder = threading.Event(), Checkpoint(config).folder
    bar = tqdm(total=config.n_prompts, desc=config.label(), unit="prompt", leave=False, position=1)

    def watch():
        while not stop.wait(1):
            bar.n = len(list(folder.glob("[0-9]*.parquet")))
            bar.refresh()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        bar.close()


def _reason(error: Exception) -> str:
    if isinstance(error, PapermillExecutionError):
        return f"{error.ename}: {error.evalue}"
    return f"{type(error).__name__}: {error}"


def where(path: Path, experiment: str) -> str:
    """Lines that say where the log, the figures and the results are."""
    figures, results = relative(figures_dir(experiment)), relative(results_dir(experiment))
    return f"log: {relative(path)}\nfigures: {figures}/\nresults and executed notebooks: {results}/"
