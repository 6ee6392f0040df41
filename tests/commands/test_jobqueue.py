"""The recipe for Slurm in docs/long-runs.md, carried out: its Python is run as it stands there, and
``sbatch`` is a shell script that runs the job here.
"""

import os
import re
import signal
import subprocess
import time

import pytest
from assert_same import assert_same

from kvhelpers.commands.cluster import connected
from kvhelpers.commands.run import run_conditions
from kvhelpers.experiment.condition import make_condition
from kvhelpers.experiment.results import find_finished
from kvhelpers.experiment.run import run_condition
from kvhelpers.paths import REPOSITORY

pytest.importorskip("dask_jobqueue")
pytestmark = pytest.mark.slow

VALUES = {"n_fewshot": 1, "n_prompts": 3, "max_new_tokens": 8, "ratio": 0.75, "device": "cpu"}
SHARED = "/shared/this-repository"  # in the recipe

# like Slurm's, it keeps a copy of the script and answers with the job's number at once
SBATCH = """#!/bin/sh
cp "$1" {jobs}/script.$$
setsid bash {jobs}/script.$$ > {jobs}/output.$$ 2>&1 &
echo $! > {jobs}/pid.$$
echo "Submitted batch job $$"
"""
SCANCEL = """#!/bin/sh
for job in "$@"; do kill -- -"$(cat {jobs}/pid.$job)"; done
"""


def recipe(repository):
    """The recipe's Python, for a repository in this folder and one job."""
    (code,) = re.findall(
        r"```python\n(.*?SLURMCluster.*?)```", (REPOSITORY / "docs/long-runs.md").read_text(), re.DOTALL
    )
    assert SHARED in code and "jobs=8" in code
    return code.replace(SHARED, str(repository)).replace("jobs=8", "jobs=1")


@pytest.fixture
def slurm(tmp_path, output, monkeypatch):
    """A folder of jobs, which a made-up Slurm's commands fill, and a repository as the recipe wants it."""
    jobs, commands, repository = tmp_path / "jobs", tmp_path / "bin", tmp_path / "repository"
    for folder in (jobs, commands, repository / ".venv/bin"):
        folder.mkdir(parents=True)
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (commands / name).write_text(text.format(jobs=jobs))
        (commands / name).chmod(0o755)
    (repository / ".venv/bin/activate").write_text(f"export RECIPE=followed\ncd {REPOSITORY}\n")
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    yield jobs
    for pid in jobs.glob("pid.*"):
        try:
            os.killpg(int(pid.read_text()), signal.SIGKILL)
        except ProcessLookupError:
            continue


def test_the_recipe_runs_conditions_in_jobs(slurm, embedded, capsys):
    names = {}
    exec(recipe(slurm.parent / "repository"), names)
    with names["cluster"] as cluster:
        address = capsys.readouterr().out.strip()
        assert address == cluster.scheduler_address
        with connected(address) as client:
            condition = make_condition(VALUES | {"experiment": "jobs"})
            assert run_conditions(client, [condition]) == []
            (process,) = client.run(lambda: (os.environ["RECIPE"], os.getcwd(), os.getsid(0))).values()
    (pid,) = slurm.glob("pid.*")
    assert process == ("followed", str(REPOSITORY), int(pid.read_text()))
    assert_same(find_finished(condition), run_condition(make_condition(VALUES), embedded))
    script = next(slurm.glob("script.*")).read_text()
    for line in ("#SBATCH -p gpu", "#SBATCH -t 08:00:00", "#SBATCH --gres=gpu:1", "#SBATCH --mem=30G"):
        assert line in script.splitlines()
    deadline = time.monotonic() + 60
    while alive(process[2]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(process[2])  # the job was cancelled with the cluster


def alive(session):
    """Whether a session has a process that runs."""
    listed = subprocess.run(["ps", "-o", "stat=", "-s", str(session)], capture_output=True, text=True)
    return any(not state.startswith("Z") for state in listed.stdout.split())
