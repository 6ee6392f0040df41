"""005 on a few prompts: all parts, kept and not made twice; and what is committed is written again."""

import runpy

import numpy as np
import pytest

from kvhelpers import frames
from kvhelpers.hazard.events import Definition
from kvhelpers.hazard.risk_set import build
from kvhelpers.paths import REPOSITORY, experiment_script

NAME = "005-hazard-predictor"
SCRIPT = runpy.run_path(str(experiment_script(NAME)))


@pytest.fixture(scope="module")
def data():
    return SCRIPT["read"](["001-reproduce-failures"], folds=2, n_prompts=6)


def test_by_the_usual_definition_nothing_changes(data):
    usual = data.by(Definition())
    assert usual.runs[["event", "time", "failed"]].equals(data.whole.runs[["event", "time", "failed"]])
    built = build(data.results, n_prompts=6)
    np.testing.assert_array_equal(data.risk.features, built.features)
    published = data.by(SCRIPT["SCRUTINY"]["PUBLISHED"]).runs
    loops = (usual.runs["event"] == "loop") & (published["event"] == "loop")
    assert (published["time"][loops] > usual.runs["time"][loops]).all()


def test_parts_are_kept_and_not_made_twice(data, tmp_path, monkeypatch):
    parts = ("how_runs_end", "beyond_a_clock", "horizons", "oracle", "learners")
    long = SCRIPT["estimates"](data, tmp_path, parts)
    for part in parts:
        monkeypatch.setitem(SCRIPT["PARTS"], part, None)
    again = SCRIPT["estimates"](data, tmp_path, parts)
    assert again.equals(long) and len(list(tmp_path.iterdir())) == len(parts)
    at = long.set_index(["question", "subject", "metric"])["estimate"]
    assert at["how runs end", "all", "runs"] == len(data.risk.runs)
    assert at["beyond a clock", "clock", "within"] == 0.5 or np.isnan(at["beyond a clock", "clock", "within"])


def test_what_is_committed_is_written_again(output):
    text = (REPOSITORY / "experiments" / f"{NAME}.md").read_text()
    assert SCRIPT["write_log"](NAME).read_text() == text
    assert len(frames.read_long(NAME)) > 700
