"""Imports run one way along the data's path, without circles, and reading results loads no torch."""

import os
import shutil
import subprocess
import sys

import pytest

from kvhelpers.paths import REPOSITORY, samples_dir

HEAVY = ("torch", "transformers", "kvpress", "distributed")


def lint(folder):
    """import-linter's verdict on the package in a folder, with the contracts of ``pyproject.toml``."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as lint; lint()"]
    command += [str(REPOSITORY / "pyproject.toml"), "--no-cache"]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_imports_run_one_way():
    run = lint(REPOSITORY)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize(
    ("module", "line", "path"),
    [
        (
            "stats/wilson.py",
            "import kvhelpers.signals",
            "kvhelpers.stats.wilson -> kvhelpers.signals",
        ),
        ("records.py", "from kvhelpers import notebook", "kvhelpers.records -> kvhelpers.notebook"),
        ("scoring/failures.py", "import kvhelpers.scoring.score", ".score -> .failures"),
    ],
)
def test_an_import_against_the_path_or_in_a_circle_is_named(tmp_path, module, line, path):
    shutil.copytree(REPOSITORY / "kvhelpers", tmp_path / "kvhelpers")
    with open(tmp_path / "kvhelpers" / module, "a") as file:
        file.write(f"\n{line}\n")
    run = lint(tmp_path)
    assert run.returncode == 1 and path in run.stdout


def loaded_by(*arguments):
    """Heavy packages that a Python process has loaded at its end."""
    code = "import runpy, sys; sys.argv = sys.argv[1:]; exec(sys.argv.pop(0)); "
    code += f"print('LOADED', *sorted(set({HEAVY}) & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()[-1].split()[1:]


READ = f"""
from pathlib import Path
from kvhelpers import frames
from kvhelpers.experiment.results import read_experiment
results = read_experiment("002-compression-sweep", Path({str(samples_dir())!r}))
assert len(frames.runs(results[:2])) == 100
"""


@pytest.mark.parametrize(
    "code",
    [
        "import kvhelpers.log, kvhelpers.hazard, kvhelpers.plots, kvhelpers.experiment",
        "import kvhelpers.models, kvhelpers.presses, kvhelpers.generation",
        READ,
    ],
)
def test_opening_results_loads_no_torch(code):
    assert loaded_by(code) == []


BAD = (
    "grid: [{press: snapkw}]",
    "grid: [{press: knorm, ratio: 2}]",
    "grid: [{press: none}], parameters: {device: gpu}",
    "grid: [{press: none}], parameters: {task: gsm9k}",
)


@pytest.mark.parametrize("arguments", [["--help"], ["run", "missing.yaml"], ["log", "nothing-there"], *BAD])
def test_the_command_line_loads_no_torch_for_help_and_errors(arguments, tmp_path):
    if isinstance(arguments, str):
        (tmp_path / "bad.yaml").write_text(f"{{name: bad, objective: None, {arguments}}}")
        arguments = ["run", str(tmp_path / "bad.yaml")]
    code = f"""
try:
    sys.argv = ["kvhelpers", *{arguments!r}]
    runpy.run_module("kvhelpers", run_name="__main__")
except SystemExit:
    pass
"""
    assert loaded_by(code) == []


def test_the_check_for_loaded_packages_sees_them():
    assert loaded_by("import distributed") == ["distributed"]
