"""Notebook 03 on a few prompts, and as it is committed."""

import nbformat
import numpy as np
import pytest
from notebook_shell import error_with

from kvhelpers import frames
from kvhelpers.errors import InputError
from kvhelpers.hazard import read_model, read_risk_set
from kvhelpers.paths import log_path, model_path, notebook_path

FEW = {"experiment": "few", "n_prompts": 6, "folds": 2, "features": ["signals"], "false_alarms": [0.1]}


def test_other_parameters_give_numbers_a_model_and_a_log(output):
    assert error_with("03_hazard", FEW) is None
    long = frames.read_long("few").set_index(["subject", "metric"])["estimate"]
    assert long["condition's failure rate", "within"] == 0.5 < long["hazard", "all pairs"]
    risk, _ = read_risk_set(["002-compression-sweep"], n_prompts=6)
    model = read_model(model_path("few"))
    assert model.data_hash == risk.part(~np.isnan(risk.label(10))).hash() and model.horizon == 10
    assert f"| hazard | {long['hazard', 'within']:.2f} [" in log_path("few").read_text()


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"learn_from": "x"}, "learn_from 'x' is not allowed; it is a list"),
        ({"n_prompts": 1}, "n_prompts 1 is not allowed"),
        ({"horizon": 0}, "horizon 0 is not allowed"),
        ({"folds": 7}, "folds 7 is not allowed"),
        ({"features": ["signal"]}, "feature family 'signal' is unknown; did you mean 'signals'?"),
        ({"false_alarms": 0.1}, "false_alarms 0.1 are not allowed"),
        ({"horizn": 5}, "parameter 'horizn' is unknown; did you mean 'horizon'?"),
    ],
)
def test_a_bad_parameter_is_one_sentence(output, parameters, sentence):
    error = error_with("03_hazard", FEW | parameters)
    assert isinstance(error, InputError) and str(error).startswith(sentence)


def test_the_committed_notebook_shows_no_warning_and_no_path_of_a_machine():
    shown = nbformat.writes(nbformat.read(notebook_path("03_hazard"), as_version=4))
    assert "Warning" not in shown
    assert not [part for part in ("/tmp/", "/home/", "/root/", "/Users/", "/work/") if part in shown]
