"""A study's file is checked against the runs that it acted on."""

import gzip
import shutil

import pytest

from kvhelpers.__main__ import main
from kvhelpers.commands.guard import study_faults
from kvhelpers.guard.study import read_study
from kvhelpers.paths import guard_path, samples_dir, study_path

NAME = "011-what-an-action-can-do"


@pytest.fixture(scope="module")
def study():
    return read_study(guard_path(NAME, samples_dir()))


def write(study, output, place, **changes):
    """The study as the results' own, with one of its runs changed."""
    runs = list(study.runs)
    runs[place] = runs[place] | changes
    return study.model_copy(update={"runs": tuple(runs)}).save(guard_path(NAME))


@pytest.mark.parametrize("name", [NAME, "012-live-guard"])
def test_the_committed_study_holds_together(name):
    runs = read_study(guard_path(name, samples_dir())).runs
    assert study_faults(name, samples_dir()) == (len(runs), [])


def test_a_run_said_to_be_right_that_is_not_is_named(study, output):
    place, run = next(
        (place, run) for place, run in enumerate(study.runs) if not run["known"] and not run["correct"]
    )
    write(study, output, place, correct=True)
    _, (fault,) = study_faults(NAME)
    assert fault.endswith("today's rules do not say that it is right") and run["prompt_id"] in fault


def test_a_known_run_that_is_not_the_finished_one_is_named(study, output):
    place = next(
        place
        for place, run in enumerate(study.runs)
        if run["known"] and run["action"] == "restore" and run["correct"]
    )
    write(study, output, place, correct=False)
    _, (fault,) = study_faults(NAME)
    assert fault.endswith("it is not the finished run that it is said to be")


def test_an_edit_is_noticed_when_the_file_is_read(study, output, capsys):
    path = write(study, output, 0)
    text = gzip.decompress(path.read_bytes()).decode()
    path.write_bytes(gzip.compress(text.replace('"tokens":', '"tokens": 1', 1).encode()))
    assert main(["verify", NAME]) == 2
    assert "is no study of actions or of a guard, or was changed" in capsys.readouterr().err


def test_a_study_whose_script_is_here_names_it(output, capsys):
    assert main(["verify", "013-inner-signals"]) == 0
    assert capsys.readouterr().out.endswith(
        "python experiments/013-inner-signals.py makes its numbers again\n"
    )


def test_a_study_of_predictors_is_read_by_its_seal(output, capsys):
    name = "005-hazard-predictor"
    path = study_path(name)
    path.parent.mkdir(parents=True)
    shutil.copyfile(study_path(name, samples_dir()), path)
    assert main(["verify", name]) == 0
    assert name in capsys.readouterr().out.rpartition("what made it: ")[2]
    path.write_text(path.read_text().replace('"commit":"', '"commit":"0', 1))
    assert main(["verify", name]) == 2
    assert "error: study file " in capsys.readouterr().err
