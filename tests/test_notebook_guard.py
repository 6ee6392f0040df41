"""Notebook 04 as papermill runs it, and as it is committed."""

import re
import subprocess
import sys

import nbformat
import pytest
from notebook_shell import error_with

from kvhelpers.errors import InputError
from kvhelpers.paths import REPOSITORY, notebook_path

NOTEBOOK = notebook_path("04_guard")


def papermill(target, *parameters):
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(NOTEBOOK),
        str(target),
        "--no-progress-bar",
        *parameters,
    ]
    return subprocess.run(command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def text_of(path):
    """What the notebook at this path printed, and its tables as text."""
    cells = nbformat.read(path, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "\n".join(out.get("text") or out.get("data", {}).get("text/plain", "") for out in outputs)


def test_another_policy_runs_and_writes_the_logs(output):
    small = ("-p", "n_prompts", "2", "-p", "max_new_tokens", "48", "-p", "policy", "repetition_restart")
    run = papermill(output / "out.ipynb", *small)
    assert run.returncode == 0, run.stderr
    assert "guarded: restart after " in text_of(output / "out.ipynb")
    for name in ("011-what-an-action-can-do", "012-live-guard"):
        assert (output / f"experiments/{name}.md").exists()


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"policy": "canary_comit"}, "policy 'canary_comit' is unknown; did you mean 'canary_commit'?"),
        ({"policy": "oracle"}, "policy 'oracle' needs finished runs of the condition"),
        ({"ratoi": 0.5}, "parameter 'ratoi' is unknown; did you mean 'ratio'?"),
        ({"live_study": "nothing"}, "study file "),
    ],
)
def test_a_bad_parameter_is_one_sentence(output, parameters, sentence):
    error = error_with("04_guard", parameters | {"n_prompts": 1, "max_new_tokens": 4})
    assert isinstance(error, InputError) and str(error).startswith(sentence)


def test_the_committed_notebook_tells_its_story_and_shows_nothing_of_one_machine():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    headings = re.findall(r"^## .*$", "\n".join(cell.source for cell in notebook.cells), re.MULTILINE)
    assert headings[-2:] == ["## What this means", "## What it does not mean"]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not [out for cell in code for out in cell.outputs if out.get("name") == "stderr"]
    assert sum("image/png" in out.get("data", {}) for cell in code for out in cell.outputs) == 3
    assert not re.search(r"(^|[\s'\"(:=])/\w", text_of(NOTEBOOK))  # absolute paths
