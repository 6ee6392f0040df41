"""What stops a run from outside is named, and the run can go on."""

import sys
from types import SimpleNamespace

import nbformat
import pytest
from distributed import Client, LocalCluster
from distributed.scheduler import KilledWorker

from kvhelpers.__main__ import main
from kvhelpers.commands import run as runner
from kvhelpers.errors import InputError
from kvhelpers.experiment.condition import make_condition
from kvhelpers.experiment.run import run_condition

SMALL = {"n_prompts": 1, "n_fewshot": 0, "max_new_tokens": 4, "device": "cpu", "experiment": "small"}


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """Let the runner execute a notebook of this source."""

    def write(source):
        path = tmp_path / "own.ipynb"
        parameters = nbformat.v4.new_code_cell("", metadata={"tags": ["parameters"]})
        cells = [parameters, nbformat.v4.new_code_cell(source)]
        language = {"language_info": {"name": "python"}}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=language), path)
        monkeypatch.setattr(runner, "notebook_path", lambda name: path)

    return write


@pytest.fixture
def condition(output):
    return make_condition(SMALL)


@pytest.fixture
def result(condition, embedded):
    return run_condition(condition, embedded)


def test_a_kernel_that_dies_is_named_and_the_condition_is_kept(condition, result, notebook):
    notebook("import os; os.kill(os.getpid(), 9)")
    with pytest.raises(
        RuntimeError, match="the notebook's kernel died; the machine may have run out of memory"
    ):
        runner.execute(condition)
    assert not result.path.with_suffix(".ipynb").exists() and result.path.exists()
    notebook("1 + 1")
    assert runner.execute(condition).exists()
    assert sorted(path.suffix for path in result.path.parent.iterdir()) == [".ipynb", ".json", ".parquet"]


def test_a_notebook_that_fails_is_kept_under_another_name(condition, result, notebook):
    notebook("1 / 0")
    with pytest.raises(RuntimeError, match="ZeroDivisionError: division by zero"):
        runner.execute(condition)
    assert (
        result.path.with_suffix(".failed.ipynb").exists() and not result.path.with_suffix(".ipynb").exists()
    )
    notebook("1 + 1")
    runner.execute(condition)
    assert not result.path.with_suffix(".failed.ipynb").exists()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            KilledWorker("task", SimpleNamespace(address="a"), 3),
            "its workers died again and again; the machine may have",
        ),
        (InputError("budget 9 is above"), "budget 9 is above"),
        (RuntimeError("can't start new thread"), "the machine ran out of memory (can't start new thread)"),
        (MemoryError(), "the machine ran out of memory (MemoryError)"),
        (OSError("no space left"), "OSError: no space left"),
    ],
)
def test_a_condition_s_failure_is_told_in_words(error, told):
    assert runner._reason(SimpleNamespace(exception=lambda: error)).startswith(told)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that no user can write to")
def test_a_folder_that_cannot_be_written_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("KVHELPERS_OUTPUT", "/sys/kernel")
    file = tmp_path / "small.yaml"
    file.write_text("{name: small, objective: None, parameters: {n_prompts: 1}, grid: [{press: none}]}")
    assert main(["run", str(file)]) == 2
    told = capsys.readouterr().err
    assert (
        told.startswith("kvhelpers: error: ")
        and "(/sys/kernel/data" in told
        and told.endswith("what was finished is kept\n")
    )


def noted(path, what):
    """A task that notes that it ran."""

    def task(values, *_):
        with open(path, "a") as file:
            file.write(f"{what} {values['press']}\n")

    return task


def test_a_condition_is_closed_before_the_next_one_is_begun(output, monkeypatch):
    for function, what in (("run_shard", "prompts"), ("finish", "close")):
        monkeypatch.setattr(runner, function, noted(output / "order", what))
    presses = ("none", "knorm", "tova", "snapkv")
    conditions = [make_condition(SMALL | {"press": press}) for press in presses]
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as local,
        Client(local) as client,
    ):
        assert runner.run_conditions(client, conditions) == []
    order = (output / "order").read_text().splitlines()
    assert order == [f"{what} {press}" for press in presses for what in ("prompts", "close")]
