"""Notebook 04 with other parameters, and as it is committed."""

import re

import nbformat
import pytest
from notebook_shell import error_with

from kvhelpers.errors import InputError
from kvhelpers.paths import notebook_path

NOTEBOOK = notebook_path("04_guard")


def text_of(path):
    """What the notebook at this path printed, and its tables as text."""
    cells = nbformat.read(path, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "\n".join(out.get("text") or out.get("data", {}).get("text/plain", "") for out in outputs)


def test_another_policy_acts(output, capsys):
    few = {"n_prompts": 1, "n_fewshot": 2, "max_new_tokens": 48, "policy": "repetition_restart"}
    assert error_with("04_guard", few, last=4) is None
    assert "guarded: restart after " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"policy": "canary_comit"}, "policy 'canary_comit' is unknown; did you mean 'canary_commit'?"),
        ({"policy": "oracle"}, "policy 'oracle' needs finished runs of the condition"),
        ({"ratoi": 0.5}, "parameter 'ratoi' is unknown; did you mean 'ratio'?"),
        ({"actions_study": "nothing"}, "study file "),
    ],
)
def test_a_bad_parameter_is_one_sentence(output, parameters, sentence):
    error = error_with("04_guard", parameters | {"n_prompts": 1, "n_fewshot": 1, "max_new_tokens": 4})
    assert isinstance(error, InputError) and str(error).startswith(sentence)


def test_the_committed_notebook_tells_its_story_and_shows_nothing_of_one_machine():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    headings = re.findall(r"^## .*$", "\n".join(cell.source for cell in notebook.cells), re.MULTILINE)
    assert headings[-2:] == ["## What this means", "## What it does not mean"]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not [out for cell in code for out in cell.outputs if out.get("name") == "stderr"]
    assert sum("image/png" in out.get("data", {}) for cell in code for out in cell.outputs) == 3
    assert not re.search(r"(^|[\s'\"(:=])/\w", text_of(NOTEBOOK))  # absolute paths
