"""``kill -9`` of the runner, again and again: the results are an undisturbed run's, and no finished prompt runs twice."""

import os
import random
import re
import subprocess
import sys

import pytest
import yaml
from same import assert_same

from kvhelpers.experiment import finished_cells, load_experiment
from kvhelpers.paths import log_path
from kvhelpers.results import Checkpoint, find_finished

KILLS = 10
EXPERIMENT = {
    "name": "undisturbed",
    "objective": "See that nothing is lost.",
    "parameters": {"n_prompts": 8, "n_fewshot": 1, "max_new_tokens": 48, "batch_size": 2, "device": "cpu"},
    "grid": [{"press": "none"}, {"press": "knorm", "ratio": [0.5, 0.75]}, {"press": "streaming_llm", "ratio": 0.75}],
}


def records_of(config):
    """The prompts that a cell has finished so far."""
    finished = find_finished(config)
    return finished.records if finished else [record for record, _ in Checkpoint(config).load()]


@pytest.mark.soak
def test_ten_kills_change_nothing(output):
    path = output / "experiment.yaml"
    path.write_text(yaml.safe_dump(EXPERIMENT))
    command = [sys.executable, "-m", "kvhelpers", "run", str(path), "--name"]
    quiet = {"env": dict(os.environ), "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([*command, "undisturbed"], check=True, **quiet)
    configs, moments, seen = load_experiment(path, "killed").configs(), random.Random(0), []
    for _ in range(KILLS):
        process = subprocess.Popen([*command, "killed"], **quiet)
        try:
            process.wait(moments.uniform(2, 22))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        seen += [(config, record) for config in configs for record in records_of(config)]
    subprocess.run([*command, "killed"], check=True, **quiet)
    assert seen
    for config, record in seen:
        assert record in find_finished(config).records  # times included: it was not generated again
    for killed, undisturbed in zip(finished_cells("killed"), finished_cells("undisturbed"), strict=True):
        killed.data["config"]["experiment"] = "undisturbed"
        assert_same(killed, undisturbed)
        assert killed.path.with_suffix(".ipynb").exists()
    assert told("killed") == told("undisturbed")
    assert not list(output.rglob("*.partial")) and not list(output.rglob(".*-*"))


def told(name):
    """An experiment's log without its name and its command."""
    return re.sub(r"^- \*\*Command.*$", "", log_path(name).read_text(), flags=re.MULTILINE).replace(name, "")
