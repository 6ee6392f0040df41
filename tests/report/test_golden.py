"""The committed logs and tables are what today's code makes of the committed data: none is old or edited by
hand.

Make them again with ``python -m kvhelpers log NAME``.
"""

import re
import subprocess
from pathlib import Path

import pytest
from samples import SAMPLES

from kvhelpers import frames
from kvhelpers.analysis.analyse import analyse
from kvhelpers.experiment.grid import find_experiment, finished_results
from kvhelpers.paths import REPOSITORY, experiment_script, guard_path, samples_dir, study_path
from kvhelpers.records import FailureMode
from kvhelpers.report import log
from kvhelpers.report.excerpt import read_labels, specimens
from kvhelpers.report.frames import save_frames

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
    stored = [path("any").name for path in (study_path, guard_path)]
    studies = {path.parent.name for name in stored for path in samples_dir().glob(f"*/{name}")}
    studies |= {name for name in LOGS if experiment_script(name).is_file()}
    assert set(LOGS) == {*SAMPLES, *studies} and len(SAMPLES) > 3


@pytest.mark.parametrize("name", LOGS)
def test_a_log_is_two_pages_with_the_verdict_first(name):
    text = committed(name)
    assert text[: text.index("\n## ")].count("\n- ") <= 6
    assert len(re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL).split()) <= 1500
    assert not re.search(r"/(home|root|tmp|Users)\b", text)
    assert not [path for path in re.findall(r"\]\(\.\./([^)]+)\)", text) if not (REPOSITORY / path).exists()]


@pytest.mark.parametrize("name", SAMPLES)
def test_the_committed_log_is_made_from_the_committed_data(name, tmp_path):
    results, spec = finished_results(name, samples_dir()), find_experiment(name, samples_dir())
    analysis = analyse(results)
    numbers = log.make_numbers(results, spec, analysis)
    images = {path.stem: path for path in sorted((FIGURES / name).glob("*.png"))}
    made = {path.name: path.read_text() for path in save_frames(numbers.frames, tmp_path)}
    assert made == {
        path.name: text_of(f"figures/{name}/{path.name}", name) for path in (FIGURES / name).glob("*.csv")
    }
    tables = {Path(file).stem: FIGURES / name / file for file in made}
    written = log.read_prose(committed(name))
    text = log.log_text(results, spec, analysis, numbers, images, tables, written)
    assert text.split("\n") == committed(name).split("\n")
    shown = re.findall(r"\]\(\.\./figures/[^/]+/(\w+)\.png\)", text)
    assert sorted(shown) == sorted(images)  # no figure is missing from the log, or left over


@pytest.mark.parametrize("name", SAMPLES)
def test_specimens_of_amnesia_and_corruption_were_read_and_are_what_they_are_called(name):
    results, labels = finished_results(name, samples_dir()), read_labels(name)
    modes = list(frames.runs(results)["mode"])
    for mode, shown in specimens(results, modes, labels):
        if mode in READ and shown is not None:
            assert labels[shown.label, shown.record.prompt_id] == mode
