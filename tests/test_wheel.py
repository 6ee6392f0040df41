"""The package installed from a wheel, away from the repository: its command, and what it says
of notebooks that it does not have.
"""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest
import yaml
from factories import SMALL_EXPERIMENT

from kvhelpers import __version__
from kvhelpers.paths import REPOSITORY

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, since setuptools builds beside its sources."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    shutil.copytree(
        REPOSITORY / "kvhelpers", source / "kvhelpers", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    command = [*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(built), str(source)]
    subprocess.run(command, check=True)
    (path,) = built.iterdir()
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Runs a command of the installed wheel, or Python, in a folder."""
    site = tmp_path_factory.mktemp("site")
    subprocess.run([*PIP, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    kept = {name: value for name, value in os.environ.items() if name != "KVHELPERS_OUTPUT"}

    def run(folder, *arguments):
        program = sys.executable if arguments[0] == "-c" else str(site / "bin" / "kvhelpers")
        environment = kept | {"PYTHONPATH": str(site)}
        return subprocess.run(
            [program, *arguments], cwd=folder, env=environment, capture_output=True, text=True
        )

    return run


def test_the_wheel_is_the_package_and_nothing_else(wheel):
    assert wheel.name == f"kvhelpers-{__version__}-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    committed = [path for path in (REPOSITORY / "kvhelpers").rglob("*") if path.suffix == ".py"]
    inside = {name for name in names if not name.startswith(f"kvhelpers-{__version__}.dist-info/")}
    assert inside == {path.relative_to(REPOSITORY).as_posix() for path in committed}


def test_the_command_runs_in_another_folder(installed, tmp_path):
    told = installed(tmp_path, "--help")
    assert told.returncode == 0 and "rescore" in told.stdout, told.stderr
    where = installed(tmp_path, "-c", "import kvhelpers; print(kvhelpers.__version__, kvhelpers.__file__)")
    version, file = where.stdout.split()
    assert version == __version__ and not file.startswith(str(REPOSITORY))
    assert list(tmp_path.iterdir()) == []


def test_an_installed_package_writes_to_the_current_folder_and_has_no_commit(installed, tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    code = (
        "from kvhelpers.paths import output_root; from kvhelpers.experiment.provenance import code_version; "
        "print(output_root(), code_version())"
    )
    assert installed(tmp_path, "-c", code).stdout.split("\n")[0] == f"{tmp_path} (None, None)"
    missing = installed(tmp_path, "log", "nothing")
    assert missing.returncode == 2
    assert "no finished condition in data/results/nothing" in missing.stderr


@pytest.mark.slow
def test_an_installed_package_runs_an_experiment_and_says_what_it_lacks(installed, tmp_path):
    """The results and the log are made; only executed notebooks are not, and a second run finds all done."""
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL_EXPERIMENT | {"grid": [{"press": "none"}]}))
    for _ in range(2):
        run = installed(tmp_path, "run", "small.yaml")
        assert run.returncode == 0, run.stderr
        assert "no executed notebooks were made" in run.stderr
    suffixes = {path.suffix for path in (tmp_path / "data/results/small/none").iterdir()}
    assert suffixes == {".json", ".parquet"} and (tmp_path / "experiments/small.md").is_file()
