"""Notebook 03 on a few prompts, as papermill runs it; the committed one is the study of log 005."""

import nbformat
import papermill
import pytest

from kvhelpers.hazard.study import read_study
from kvhelpers.notebook import study_command
from kvhelpers.paths import REPOSITORY, notebook_path, samples_dir
from kvhelpers.report.format import estimate

FEW = {"experiment": "few", "learn_from": ["002-compression-sweep"], "n_prompts": 6, "folds": 2}


def outputs(notebook, kind):
    """What the code cells show of a kind, in order."""
    cells = (cell for cell in notebook.cells if cell.cell_type == "code")
    return [output.data[kind] for cell in cells for output in cell.outputs if kind in output.get("data", {})]


@pytest.fixture
def executed(output):
    target = output / "out.ipynb"
    papermill.execute_notebook(
        notebook_path("03_hazard"), target, FEW, cwd=str(REPOSITORY), progress_bar=False
    )
    return nbformat.read(target, as_version=4)


def test_a_few_prompts_give_tables_figures_and_a_log(executed, output):
    study = read_study(output / "data/results/few/study.json")
    table, *_ = (html for html in outputs(executed, "text/html") if "AUPRC" in html)
    for name, metrics in study.methods.items():
        assert f"<td>{name}</td>" in table and f"<td>{estimate(metrics.auroc)}</td>" in table
    assert len(outputs(executed, "image/png")) == 7
    log = (output / "experiments/few.md").read_text()
    abstract = log.split("\n\n")[2].removeprefix("- ").replace("\n- ", "\n")
    assert abstract in outputs(executed, "text/markdown")
    assert study.data.prompts == 6 and "n_prompts: 6" in study.provenance.command
    assert (output / "data/results/few/model.json").exists()
    assert (output / "figures/few/predictors.csv").exists()


def test_the_committed_notebook_is_the_study_of_the_log():
    notebook = nbformat.read(notebook_path("03_hazard"), as_version=4)
    study = read_study(samples_dir() / "005-hazard-predictor" / "study.json")
    parameters = {}
    exec(notebook.cells[1].source, parameters)
    names = ("experiment", "learn_from", "results_dir", "n_prompts", "horizon", "folds", "features")
    values = {name: parameters[name] for name in (*names, "false_alarms")}
    assert study_command("03_hazard", values) == study.provenance.command
    table, *_ = (html for html in outputs(notebook, "text/html") if "AUPRC" in html)
    for metrics in study.methods.values():
        assert f"<td>{estimate(metrics.auroc)}</td>" in table


def test_the_committed_notebook_shows_no_warning_and_no_path_of_a_machine():
    notebook = nbformat.read(notebook_path("03_hazard"), as_version=4)
    shown = nbformat.writes(notebook)
    assert "Warning" not in shown
    assert not [part for part in ("/tmp/", "/home/", "/root/", "/Users/", "/work/") if part in shown]
