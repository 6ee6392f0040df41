"""The hash of how a task marks is the same in every process, and follows the code that marks."""

import os
import subprocess
import sys

import datasets
import pytest
import yaml

from kvhelpers.paths import REPOSITORY

harness = pytest.importorskip("lm_eval")

from kvhelpers.lm_eval.recorded import marking_hash  # noqa: E402

FILTERS = """
from lm_eval.filters.extraction import RegexFilter

class Filter(RegexFilter):
    pattern = "PATTERN"
"""
METRICS = """
class Aggregate:
    def __call__(self, items):
        return SCALE * sum(items) / len(items)

mean = Aggregate()
"""
DOCS = """
from functools import partial
from pathlib import Path

def keep(docs, most, among):
    return docs.select(range(most))

most = int(Path(__file__).with_name("most.txt").read_text())
process = partial(keep, most=most, among={"one", "two", "three", "four"})
"""
TASK = """
process_docs: !function docs.process
filter_list: [{name: own, filter: [{function: !function filters.Filter}, {function: take_first}]}]
metric_list: [{metric: exact_match, aggregation: !function metrics.mean, higher_is_better: true}]
"""
HASH = """
import sys
from lm_eval.tasks import TaskManager
from kvhelpers.lm_eval.recorded import marking_hash

manager = TaskManager(include_path=sys.argv[1], include_defaults=False)
print(marking_hash(manager.load(["own"])["tasks"]["own"]))
"""


@pytest.fixture
def hashed(tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)  # the task's data are named from there
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")

    def hashed(pattern="a", scale=1, most=2):
        task = yaml.safe_load((REPOSITORY / "data/tasks/onestep.yaml").read_text()) | {"task": "own"}
        del task["filter_list"], task["metric_list"]
        folder = tmp_path / f"{pattern}-{scale}-{most}"
        folder.mkdir(exist_ok=True)
        (folder / "most.txt").write_text(str(most))
        (folder / "own.yaml").write_text(yaml.safe_dump(task) + TASK)
        (folder / "filters.py").write_text(FILTERS.replace("PATTERN", pattern))
        (folder / "metrics.py").write_text(METRICS.replace("SCALE", str(scale)))
        (folder / "docs.py").write_text(DOCS)
        manager = harness.tasks.TaskManager(include_path=str(folder), include_defaults=False)
        return folder, marking_hash(manager.load(["own"])["tasks"]["own"])

    return hashed


def test_every_process_has_the_same_hash(hashed, tmp_path):
    folder, here = hashed()
    changed = {"HF_DATASETS_CACHE": str(tmp_path / "datasets")}
    elsewhere = subprocess.run(
        [sys.executable, "-c", HASH, str(folder)],
        env=os.environ | changed | {"PYTHONHASHSEED": "1"},  # this process has another
        capture_output=True,
        text=True,
        check=True,
    )
    assert elsewhere.stdout.split()[-1] == here


def test_a_corrected_class_or_another_argument_gives_another_hash(hashed):
    (_, first), (_, again) = hashed(), hashed()
    others = [hashed(pattern="b"), hashed(scale=100), hashed(most=3)]
    assert first == again and len({first, *(other for _, other in others)}) == 4
