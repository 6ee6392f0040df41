"""The committed logs of 011 and 014 are what today's code makes of the committed studies.

``python -m kvhelpers guard experiments/NAME.yaml && python -m kvhelpers sample NAME`` makes them again.
"""

import re

import pytest

from kvhelpers.paths import REPOSITORY, guard_path, samples_dir
from kvhelpers.report.actions_log import actions_log
from kvhelpers.report.actions_tables import action_tables
from kvhelpers.report.frames import save_frames
from kvhelpers.report.guard_log import read_guard_study

NAMES = ("011-what-an-action-can-do", "014-actions-on-a-capable-model")


@pytest.fixture(scope="module", params=NAMES)
def made(request):
    """A study's name, its log and its tables."""
    study = read_guard_study(guard_path(request.param, samples_dir()))
    return request.param, actions_log(study), action_tables(study)


def test_the_committed_log_is_made_from_the_committed_study(made):
    name, log, _ = made
    committed = (REPOSITORY / "experiments" / f"{name}.md").read_text()
    assert log.split("\n") == committed.split("\n")
    shown = re.findall(r"\]\(\.\./figures/[^/]+/(\w+)\.png\)", committed)
    assert sorted(shown) == sorted(path.stem for path in (REPOSITORY / "figures" / name).glob("*.png"))
    assert not re.search(r"/(home|root|tmp|Users)\b", committed)


def test_the_committed_tables_are_the_study_s(made, tmp_path):
    name, _, tables = made
    files = {path.name: path.read_text() for path in save_frames(tables, tmp_path)}
    assert files == {path.name: path.read_text() for path in (REPOSITORY / "figures" / name).glob("*.csv")}
