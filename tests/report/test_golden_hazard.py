"""The committed log of the study of predictors is what today's code makes of the committed study.

The study itself takes a quarter of an hour: run notebook 03 with the command at its head, and copy its
``study.json`` here.
"""

import re

import pytest

from kvhelpers.experiment.grid import finished_results
from kvhelpers.hazard.study import read_study
from kvhelpers.notebook import study_command
from kvhelpers.paths import REPOSITORY, samples_dir
from kvhelpers.report.hazard_log import hazard_log

NAME = "005-hazard-predictor"


@pytest.fixture(scope="module")
def study():
    return read_study(samples_dir() / NAME / "study.json")


def test_the_committed_log_is_made_from_the_committed_study(study):
    committed = (REPOSITORY / "experiments" / f"{NAME}.md").read_text()
    results = [result for name in study.data.experiments for result in finished_results(name, samples_dir())]
    settings = study.settings
    parameters = {
        "experiment": NAME,
        "learn_from": list(study.data.experiments),
        "results_dir": None,
        "n_prompts": None,
        "horizon": settings.horizon,
        "folds": settings.folds,
        "features": list(settings.families),
        "false_alarms": list(settings.false_alarms),
    }
    text = hazard_log(NAME, study, results, study_command("03_hazard", parameters))
    assert text.split("\n") == committed.split("\n")
    shown = re.findall(r"\]\(\.\./figures/[^/]+/(\w+)\.png\)", committed)
    assert sorted(shown) == sorted(path.stem for path in (REPOSITORY / "figures" / NAME).glob("*.png"))
    assert not re.search(r"/(home|root|tmp|Users)\b", committed)


def test_the_study_is_of_all_runs_of_the_samples(study):
    results = [result for name in study.data.experiments for result in finished_results(name, samples_dir())]
    valid = [result for result in results if not result.is_invalid]
    assert study.data.runs == sum(len(result.records) for result in valid) == 4250
    prompts = {record.prompt_id for result in valid for record in result.records}
    assert study.data.prompts == len(prompts) == 100
    assert set(study.data.left_out) == {
        (result.condition.experiment, result.label) for result in results if result.is_invalid
    }
