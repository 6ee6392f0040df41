"""The committed log of the study of predictors is what today's code makes of the committed study.

The study itself takes an hour: run notebook 03, and copy ``data/results/005-hazard-predictor/study.json``
to ``data/samples``.
"""

import re

import pytest

from kvhelpers.experiment.grid import finished_results
from kvhelpers.hazard.study import read_study
from kvhelpers.paths import REPOSITORY, samples_dir
from kvhelpers.report.frames import save_frames
from kvhelpers.report.hazard_log import hazard_log
from kvhelpers.report.hazard_tables import number_tables

NAME = "005-hazard-predictor"
LATER = {  # run since the study was made
    ("006-capable-model", label)
    for label in ("observed_attention 0.75", "tova 0.5", "expected_attention 0.5")
}


@pytest.fixture(scope="module")
def study():
    return read_study(samples_dir() / NAME / "study.json")


def test_the_committed_log_is_made_from_the_committed_study(study):
    committed = (REPOSITORY / "experiments" / f"{NAME}.md").read_text()
    results = [result for name in study.data.experiments for result in finished_results(name, samples_dir())]
    assert hazard_log(NAME, study, results).split("\n") == committed.split("\n")
    shown = re.findall(r"\]\(\.\./figures/[^/]+/(\w+)\.png\)", committed)
    assert sorted(shown) == sorted(path.stem for path in (REPOSITORY / "figures" / NAME).glob("*.png"))
    assert not re.search(r"/(home|root|tmp|Users)\b", committed)


def test_the_committed_tables_are_the_study_s(study, tmp_path):
    made = {path.name: path.read_text() for path in save_frames(number_tables(study), tmp_path)}
    assert made == {path.name: path.read_text() for path in (REPOSITORY / "figures" / NAME).glob("*.csv")}


def test_the_committed_log_has_two_pages_and_its_verdict_first(study):
    committed = (REPOSITORY / "experiments" / f"{NAME}.md").read_text()
    unfolded = re.sub(r"<details>.*?</details>", "", committed, flags=re.DOTALL)
    assert len(unfolded.split()) <= 1500
    abstract = committed.split("\n\n")[2].split("\n")
    assert len(abstract) <= 6 and abstract[0].startswith("- **No.**")


def test_the_study_says_what_makes_it_again(study):
    made = study.provenance
    assert made.command.startswith("papermill notebooks/03_hazard.ipynb out.ipynb ") and NAME in made.command
    assert None not in made.model_dump().values()


def test_the_study_is_of_all_runs_of_the_samples_that_were_there(study):
    results = [result for name in study.data.experiments for result in finished_results(name, samples_dir())]
    valid = [
        result
        for result in results
        if not result.is_invalid and (result.condition.experiment, result.label) not in LATER
    ]
    assert study.data.runs == 4500 == sum(len(result.records) for result in valid)
    prompts = {record.prompt_id for result in valid for record in result.records}
    assert study.data.prompts == len(prompts) == 152
    assert {(left.experiment, left.condition) for left in study.data.left_out} == {
        (result.condition.experiment, result.label) for result in results if result.is_invalid
    }
