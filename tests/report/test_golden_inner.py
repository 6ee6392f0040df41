"""The committed log of the study of inner signals is what today's code makes of the committed study.

The replays take an hour on two cores: ``python -m kvhelpers replay`` on 002 and 006, then ``python -m
kvhelpers inner``, and copy ``data/results/013-inner-signals/inner.json`` to ``data/samples``.
"""

import re

import pytest

from kvhelpers.experiment.grid import finished_results
from kvhelpers.hazard.baselines import PROPOSED, TREES
from kvhelpers.hazard.inner import INNER_FAMILIES
from kvhelpers.hazard.inner_study import ALL, OUTSIDE, read_inner_study
from kvhelpers.paths import REPOSITORY, inner_study_path, samples_dir
from kvhelpers.report.frames import save_frames
from kvhelpers.report.inner_log import families_frame, inner_log

NAME = "013-inner-signals"


@pytest.fixture(scope="module")
def study():
    return read_inner_study(inner_study_path(NAME, samples_dir()))


def test_the_committed_log_is_made_from_the_committed_study(study):
    committed = (REPOSITORY / "experiments" / f"{NAME}.md").read_text()
    assert inner_log(NAME, study).split("\n") == committed.split("\n")
    assert len(re.sub(r"<details>.*?</details>", "", committed, flags=re.DOTALL).split()) <= 1500
    assert (REPOSITORY / "figures" / NAME / "gains.png").is_file()
    assert not re.search(r"/(home|root|tmp|Users)\b", committed)


def test_the_committed_table_is_the_study_s(study, tmp_path):
    (path,) = save_frames({"families": families_frame(study)}, tmp_path)
    assert path.read_text() == (REPOSITORY / "figures" / NAME / "families.csv").read_text()


def test_the_study_is_of_the_samples_runs(study):
    for asked in study.asked:
        results = {result.label: result for result in finished_results(asked.experiment, samples_dir())}
        assert set(asked.conditions) | set(asked.left_out) <= set(results)
        assert asked.runs == sum(len(results[label].records) for label in asked.conditions)
        assert asked.parted <= 0.15 * asked.runs
        for kind in (PROPOSED, TREES):
            assert [one.family for one in asked.added[kind]] == [OUTSIDE, *INNER_FAMILIES, ALL]
    assert study.provenance.command.startswith("python -m kvhelpers inner ")
    assert None not in study.provenance.model_dump().values()
