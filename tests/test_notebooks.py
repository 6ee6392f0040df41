"""The notebook as papermill runs it: from anywhere, with good and with bad parameters."""

import re
import subprocess
import sys

import nbformat
import pytest
from notebook_shell import error_with
from papermill import inspect_notebook

from kvhelpers.errors import InputError
from kvhelpers.experiment.condition import Condition, make_condition
from kvhelpers.notebook import MARK, WRITE_LOG, assigned_names
from kvhelpers.paths import REPOSITORY, notebook_path

NOTEBOOK = notebook_path("01_reproduce")
FINDING = "001-reproduce-failures"  # the experiment that scratch runs stand beside


def papermill(target, *parameters, cwd=REPOSITORY, notebook="notebooks/01_reproduce.ipynb"):
    command = [sys.executable, "-m", "papermill", notebook, str(target), "--no-progress-bar", *parameters]
    return subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def text_of(notebook):
    """What the notebook at this path printed, and its tables as text."""
    cells = nbformat.read(notebook, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    texts = (output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)
    return "\n".join(texts)


def test_parameters_cell_has_the_condition_s_names_and_defaults_in_two_halves():
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    (parameters,) = (cell for cell in cells if "parameters" in cell.metadata.get("tags", []))
    assert parameters.source.startswith(MARK)
    question, running = map(assigned_names, re.split(r"\n(?=# How it runs)", parameters.source))
    assert sorted([*question, *running]) == sorted([*Condition.model_fields, WRITE_LOG])
    assert {"model", "task", "press", "ratio", "budget", "n_prompts", "max_new_tokens"} <= set(question)
    assert {"batch_size", "device", "dtype", WRITE_LOG} <= set(running)
    values = {}
    exec(parameters.source, {}, values)
    assert values.pop(WRITE_LOG) is True
    assert make_condition(values) == Condition()  # so that a recorded command may leave out what is default


@pytest.mark.parametrize("name", ["01_reproduce", "02_signals", "03_hazard", "04_guard"])
def test_papermill_knows_every_parameter(name):
    """It reads them line by line, and warns of those whose line it cannot read."""
    cells = nbformat.read(notebook_path(name), as_version=4).cells
    (source,) = (cell.source for cell in cells if "parameters" in cell.metadata.get("tags", []))
    assert sorted(inspect_notebook(str(notebook_path(name)))) == sorted(assigned_names(source))


@pytest.mark.parametrize("name", ["01_reproduce", "02_signals", "03_hazard", "04_guard"])
def test_committed_notebook_is_executed_whole_with_kernel_python3(name):
    notebook = nbformat.read(notebook_path(name), as_version=4)
    assert notebook.metadata.kernelspec.name == "python3"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)


@pytest.mark.parametrize("name", ["01_reproduce", "02_signals"])
def test_committed_notebook_tells_its_story_to_the_end_and_shows_nothing_of_one_machine(name):
    notebook = nbformat.read(notebook_path(name), as_version=4)
    headings = [
        line for cell in notebook.cells for line in cell.source.splitlines() if line.startswith("## ")
    ]
    assert headings[-2:] == ["## What this means", "## What it does not mean"]
    shown = [cell.source.splitlines()[-1] for cell in notebook.cells if cell.cell_type == "code"]
    assert shown.count("runs.head()") == 1
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.get("name") == "stderr"]  # progress, warnings
    assert not re.search(r"(^|[\s'\"(:=])/\w", text_of(notebook_path(name)))  # absolute paths


def test_the_sentence_stands_without_a_traceback(output, capsys):
    assert error_with("01_reproduce", {"ratoi": 0.5}) is not None
    (shown,) = capsys.readouterr().out.splitlines()
    assert shown.startswith("InputError: parameter 'ratoi' is unknown; did you mean 'ratio'?")


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"ratio": "abc"}, "ratio 'abc' is not allowed"),
        ({"press": "none", "ratio": 0.5}, "ratio 0.5 makes no sense with press 'none'"),
        ({"device": "cuda"}, "device 'cuda' is not available on this machine"),
    ],
)
def test_a_bad_parameter_is_one_sentence_and_leaves_nothing(output, parameters, sentence):
    if "cuda" in parameters.values() and pytest.importorskip("torch").cuda.is_available():
        pytest.skip("there is a GPU here")
    error = error_with("01_reproduce", parameters)
    assert isinstance(error, InputError) and str(error).startswith(sentence)
    assert list(output.iterdir()) == []


SMALL = {"n_prompts": 2, "n_fewshot": 1, "max_new_tokens": 12, "device": "cpu"}


def test_runs_from_the_notebooks_folder_beside_the_conditions_it_belongs_to(output):
    values = SMALL | {"ratio": 0.75}
    parameters = [part for name, value in values.items() for part in ("-p", name, str(value))]
    out, folder = output / "out.ipynb", REPOSITORY / "notebooks"
    run = papermill(out, *parameters, cwd=folder, notebook="01_reproduce.ipynb")
    assert run.returncode == 0, run.stderr
    read = ["1 condition of scratch from data/results", f"4 conditions of {FINDING} from data/samples"]
    assert re.findall(r"^read (.*)$", text_of(out), re.MULTILINE) == read
    assert len(list(output.glob("data/results/scratch/streaming_llm/smollm2-135m_0.75_2p_*.json"))) == 1
    assert (output / "experiments/scratch.md").exists()


def test_own_results_are_read_before_those_of_the_sample(output, capsys):
    assert error_with("01_reproduce", SMALL | {"experiment": FINDING, "ratio": 0.75}) is None
    (read,) = re.findall(r"^read (.*)$", capsys.readouterr().out, re.MULTILINE)
    assert read == f"1 condition of {FINDING} from data/results"


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        (
            {"experiment": "nothing"},
            "experiment 'nothing' has no finished condition in data/results/nothing; run it first",
        ),
        ({"experimnet": "x"}, "parameter 'experimnet' is unknown; did you mean 'experiment'?"),
        ({"quantiles": 1.5}, "quantiles 1.5 is not allowed"),
    ],
)
def test_signals_notebook_fails_with_one_sentence(output, parameters, sentence):
    error = error_with("02_signals", parameters)
    assert isinstance(error, InputError) and str(error).startswith(sentence)
    assert list(output.iterdir()) == []
