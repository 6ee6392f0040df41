"""What stops a run from outside is named, and the run can go on."""

import sys
from types import SimpleNamespace

import nbformat
import pytest
from distributed.scheduler import KilledWorker

from kvhelpers import runner
from kvhelpers.__main__ import main
from kvhelpers.cell import run_cell
from kvhelpers.config import make_config
from kvhelpers.errors import InputError

SMALL = {"n_prompts": 1, "n_fewshot": 0, "max_new_tokens": 4, "device": "cpu", "experiment": "small"}


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """Let the runner execute a notebook of this source."""

    def write(source):
        path = tmp_path / "own.ipynb"
        parameters = nbformat.v4.new_code_cell("", metadata={"tags": ["parameters"]})
        cells, language = [parameters, nbformat.v4.new_code_cell(source)], {"language_info": {"name": "python"}}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=language), path)
        monkeypatch.setattr(runner, "notebook_path", lambda name: path)

    return write


@pytest.fixture
def config(output):
    return make_config(SMALL)


@pytest.fixture
def cell(config, embedded):
    return run_cell(config, embedded)


def test_a_kernel_that_dies_is_named_and_the_cell_is_kept(config, cell, notebook):
    notebook("import os; os.kill(os.getpid(), 9)")
    with pytest.raises(RuntimeError, match="the notebook's kernel died; the machine may have run out of memory"):
        runner.execute(config)
    assert not cell.path.with_suffix(".ipynb").exists() and cell.path.exists()
    notebook("1 + 1")
    assert runner.execute(config).exists()
    assert sorted(path.suffix for path in cell.path.parent.iterdir()) == [".ipynb", ".json", ".parquet"]


def test_a_notebook_that_fails_is_kept_under_another_name(config, cell, notebook):
    notebook("1 / 0")
    with pytest.raises(RuntimeError, match="ZeroDivisionError: division by zero"):
        runner.execute(config)
    assert cell.path.with_suffix(".failed.ipynb").exists() and not cell.path.with_suffix(".ipynb").exists()
    notebook("1 + 1")
    runner.execute(config)
    assert not cell.path.with_suffix(".failed.ipynb").exists()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            KilledWorker("task", SimpleNamespace(address="a"), 3),
            "its workers died again and again; the machine may have",
        ),
        (InputError("budget 9 is above"), "budget 9 is above"),
        (OSError("no space left"), "OSError: no space left"),
    ],
)
def test_a_cell_s_failure_is_told_in_words(error, told):
    assert runner._reason(SimpleNamespace(exception=lambda: error)).startswith(told)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that no user can write to")
def test_a_folder_that_cannot_be_written_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("KVHELPERS_OUTPUT", "/sys/kernel")
    file = tmp_path / "small.yaml"
    file.write_text("{name: small, objective: None, parameters: {n_prompts: 1}, grid: [{press: none}]}")
    assert main(["run", str(file)]) == 2
    told = capsys.readouterr().err
    assert (
        told.startswith("kvhelpers: error: ") and "(/sys/kernel/data" in told and told.endswith("what was finished is kept\n")
    )
