"""The committed logs and tables are what today's code makes of the committed data: none is old or edited by
hand, but for the conclusions.

Make them again with ``python -m kvhelpers log NAME``.
"""

import re
import subprocess

import pytest
from samples import SAMPLES

from kvhelpers import frames, log
from kvhelpers.estimates import estimates
from kvhelpers.excerpts import read_labels, specimens
from kvhelpers.experiment.grid import find_experiment, finished_results
from kvhelpers.frames import save_frames
from kvhelpers.paths import REPOSITORY, experiment_script, guard_path, samples_dir
from kvhelpers.records import FailureMode

LOGS = sorted(path.stem for path in (REPOSITORY / "experiments").glob("[0-9]*.md"))
FIGURES = REPOSITORY / "figures"
READ = {FailureMode.AMNESIA, FailureMode.CORRUPTION}


def committed(name):
    return text_of(f"experiments/{name}.md", name)


def text_of(file, name):
    """A file as it was committed: beside results of one's own, as `make reproduce` leaves them, it may have
    been made again from those.
    """
    if not (REPOSITORY / "data" / "results" / name).is_dir():
        return (REPOSITORY / file).read_text()
    show = ["git", "-C", str(REPOSITORY), "show", f"HEAD:{file}"]
    return subprocess.run(show, capture_output=True, text=True, check=True).stdout


def test_every_log_has_its_data():
    studies = {path.parent.name for path in samples_dir().glob(f"*/{guard_path('any').name}")}
    studies |= {name for name in LOGS if experiment_script(name).is_file()}
    assert set(LOGS) == {*SAMPLES, *studies} and len(SAMPLES) > 3


@pytest.mark.parametrize("name", LOGS)
def test_a_log_names_no_folder_of_a_machine_and_its_links_lead_somewhere(name):
    text = committed(name)
    assert not re.search(r"/(home|root|tmp|Users)\b", text)
    assert not [path for path in re.findall(r"\]\(\.\./([^)]+)\)", text) if not (REPOSITORY / path).exists()]


@pytest.mark.parametrize("name", SAMPLES)
def test_the_committed_log_is_made_from_the_committed_data(name, tmp_path):
    results, spec = finished_results(name, samples_dir()), find_experiment(name, samples_dir())
    runs, tokens = frames.runs(results), frames.tokens(results, log.SIGNALS)
    long = estimates(runs, tokens, spec.contrasts)
    tables = {"estimates": long, "conditions": log.conditions_table(results, long)}
    made = {path.name: path.read_text() for path in save_frames(tables, tmp_path)}
    there = {
        path.name: text_of(f"figures/{name}/{path.name}", name) for path in (FIGURES / name).glob("*.csv")
    }
    assert made == there
    (words,) = log.WORDS.findall(committed(name))
    text = log.log_text(results, spec, runs, long, log.shown_conditions(runs, spec.contrasts), words)
    assert text.split("\n") == committed(name).split("\n")
    assert 500 <= len(text.split()) <= 900
    assert [path.name for path in (FIGURES / name).glob("*.png")] == ["rates.png"]
    read = read_labels(name)
    for one in specimens(runs, read).itertuples():
        if one.mode in READ:
            assert read[one.condition, one.prompt] == one.mode  # a person read it
