"""Results say what made them, and where."""

import subprocess

import pytest

from kvhelpers.experiment import provenance as module
from kvhelpers.experiment.condition import Condition
from kvhelpers.experiment.provenance import code_version, notebook_command, provenance


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with one commit of a package ``kvhelpers``."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@y"]
    (tmp_path / "kvhelpers").mkdir()
    (tmp_path / "kvhelpers" / "a.py").write_text("")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *arguments], check=True)
    monkeypatch.setattr(module, "REPOSITORY", tmp_path)
    code_version.cache_clear()
    yield tmp_path
    code_version.cache_clear()


def test_the_code_is_named_by_its_commit_and_by_changes_beside_it(repository):
    head = subprocess.run(["git", "-C", repository, "rev-parse", "HEAD"], capture_output=True, text=True)
    (repository / "experiments.md").write_text("a log is no code")
    assert code_version() == (head.stdout.strip(), True)
    code_version.cache_clear()
    (repository / "kvhelpers" / "b.py").write_text("")
    assert code_version() == (head.stdout.strip(), False)


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "REPOSITORY", tmp_path)
    code_version.cache_clear()
    assert code_version() == (None, None)
    code_version.cache_clear()


def test_machine_and_command_are_noted():
    condition = Condition(device="cpu")
    made = provenance(condition, "python -m kvhelpers run x.yaml")
    assert made.command == "python -m kvhelpers run x.yaml"
    assert made.machine.memory_gib > 0 and made.machine.torch_threads >= 1 and made.machine.device == "cpu"
    assert {"torch", "transformers", "kvpress", "python"} <= set(made.versions)


def test_a_condition_of_the_notebook_is_made_again_by_papermill():
    condition = Condition(press="snapkv", press_kwargs={"window_size": 16}, n_prompts=3)
    assert notebook_command(condition) == (
        "papermill notebooks/01_reproduce.ipynb out.ipynb -p press snapkv -p ratio 0.875 "
        """-p press_kwargs '{"window_size": 16}' -p n_prompts 3"""
    )
