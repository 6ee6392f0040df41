"""The committed logs of 011, 012, 014 and 015 are what today's code makes of the committed studies.

``python -m kvhelpers guard experiments/NAME.yaml && python -m kvhelpers sample NAME`` makes them again.
"""

import re

import pytest

from kvhelpers.guard.frontier import results
from kvhelpers.paths import REPOSITORY, guard_path, samples_dir
from kvhelpers.report.actions_log import actions_log
from kvhelpers.report.actions_tables import action_tables
from kvhelpers.report.frames import save_frames
from kvhelpers.report.guard_log import read_guard_study
from kvhelpers.report.live_log import live_log
from kvhelpers.report.live_tables import live_tables

ACTIONS, LIVE = "011-what-an-action-can-do", "012-live-guard"
CAPABLE, CAPABLE_LIVE = "014-actions-on-a-capable-model", "015-live-guard-on-a-capable-model"


@pytest.fixture(scope="module", params=(ACTIONS, LIVE, CAPABLE, CAPABLE_LIVE))
def made(request):
    """A study's name, its log and its tables."""
    study = read_guard_study(guard_path(request.param, samples_dir()))
    if request.param not in (LIVE, CAPABLE_LIVE):
        return request.param, actions_log(study), action_tables(study)
    policies = results(study)
    return request.param, live_log(study, policies), live_tables(study, policies)


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
