"""The notebook as papermill runs it: from anywhere, with good and with bad parameters."""

import subprocess
import sys

import nbformat
import pytest

from kvhelpers.experiment.condition import Condition
from kvhelpers.notebook import MARK, WRITE_LOG, assigned_names
from kvhelpers.paths import REPOSITORY, notebook_path

NOTEBOOK = notebook_path("01_reproduce")


def papermill(target, *parameters, cwd=REPOSITORY, notebook="notebooks/01_reproduce.ipynb"):
    command = [sys.executable, "-m", "papermill", notebook, str(target), "--no-progress-bar", *parameters]
    return subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def test_parameters_cell_has_the_configuration_s_names():
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    (parameters,) = (cell for cell in cells if "parameters" in cell.metadata.get("tags", []))
    assert parameters.source.startswith(MARK)
    assert set(assigned_names(parameters.source)) == {*Condition.model_fields, WRITE_LOG}


@pytest.mark.parametrize("name", ["01_reproduce", "02_signals", "03_hazard"])
def test_committed_notebook_is_executed_whole_with_kernel_python3(name):
    notebook = nbformat.read(notebook_path(name), as_version=4)
    assert notebook.metadata.kernelspec.name == "python3"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        (("-p", "ratoi", "0.5"), "parameter 'ratoi' is unknown; did you mean 'ratio'?"),
        (("-p", "ratio", "abc"), "ratio 'abc' is not allowed"),
        (("-p", "press", "none", "-p", "ratio", "0.5"), "ratio 0.5 makes no sense with press 'none'"),
        (("-p", "device", "cuda"), "device 'cuda' is not available on this machine"),
    ],
)
def test_papermill_fails_with_one_sentence(output, parameters, sentence):
    if "cuda" in parameters and pytest.importorskip("torch").cuda.is_available():
        pytest.skip("there is a GPU here")
    run = papermill(output / "out.ipynb", *parameters)
    assert run.returncode != 0
    assert (
        "InputError: " + sentence in run.stderr
        and 'File "' not in run.stderr.split("Exception encountered", 1)[1].split("InputError")[0]
    )
    assert [p.name for p in output.iterdir()] == ["out.ipynb"]


def test_runs_from_the_notebooks_folder_with_a_ratio_alone(output):
    small = (
        "-p",
        "n_prompts",
        "2",
        "-p",
        "n_fewshot",
        "1",
        "-p",
        "max_new_tokens",
        "12",
        "-p",
        "device",
        "cpu",
    )
    run = papermill(
        output / "out.ipynb",
        "-p",
        "ratio",
        "0.75",
        *small,
        cwd=REPOSITORY / "notebooks",
        notebook="01_reproduce.ipynb",
    )
    assert run.returncode == 0, run.stderr
    assert (output / "data/results/scratch/streaming_llm/smollm2-135m_0.75_2p.json").exists()
    assert (output / "experiments/scratch.md").exists()


@pytest.mark.parametrize(
    ("parameter", "sentence"),
    [
        (
            ("experiment", "nothing"),
            "experiment 'nothing' has no finished condition in data/results/nothing; run it first",
        ),
        (("experimnet", "x"), "parameter 'experimnet' is unknown; did you mean 'experiment'?"),
        (("quantile", "1.5"), "quantile 1.5 is not allowed"),
    ],
)
def test_signals_notebook_fails_with_one_sentence(output, parameter, sentence):
    run = papermill(output / "out.ipynb", "-p", *parameter, notebook="notebooks/02_signals.ipynb")
    assert run.returncode != 0 and "InputError: " + sentence in run.stderr
    assert [path.name for path in output.iterdir()] == ["out.ipynb"]
