"""The committed logs are what today's code makes of the committed data: none is old or edited by hand.

Make them again with ``python -m kvhelpers log NAME``.
"""

import re

import pytest

from kvhelpers.analysis.analyse import analyse
from kvhelpers.experiment.grid import find_experiment, finished_results
from kvhelpers.paths import REPOSITORY, samples_dir
from kvhelpers.report.log import log_text, read_prose

SAMPLES = sorted(path.parent.name for path in samples_dir().glob("*/experiment.yaml"))


def test_there_are_samples():
    assert SAMPLES == ["001-reproduce-failures", "002-compression-sweep", "002-compression-sweep-gsm8k"]


@pytest.mark.parametrize("name", SAMPLES)
def test_the_committed_log_is_made_from_the_committed_data(name):
    committed = (REPOSITORY / "experiments" / f"{name}.md").read_text()
    results = finished_results(name, samples_dir())
    images = {path.stem: path for path in sorted((REPOSITORY / "figures" / name).glob("*.png"))}
    spec = find_experiment(name, samples_dir())
    text = log_text(results, spec, analyse(results), images, read_prose(committed))
    assert text.split("\n") == committed.split("\n")
    shown = re.findall(r"\]\(\.\./figures/[^/]+/(\w+)\.png\)", committed)
    assert sorted(shown) == sorted(images)  # no figure is missing from the log, or left over
    assert not re.search(r"/(home|root|tmp|Users)\b", committed)
