import os
import platform
import subprocess
import sys

import pytest

from kvhelpers.__main__ import main
from kvhelpers.paths import relative, temporary_beside, write_atomic


def test_a_file_is_whole_or_not_there(tmp_path):
    target = tmp_path / "deep" / "text.md"
    assert write_atomic(target, lambda path: path.write_text("whole")).read_text() == "whole"

    def breaks(path):
        path.write_text("ha")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        write_atomic(target, breaks)
    assert target.read_text() == "whole" and list(target.parent.iterdir()) == [target]


def test_what_dead_processes_left_is_removed_and_what_the_living_write_is_not(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host, target = platform.node(), tmp_path / "a-1[x].json"
    left = tmp_path / f".{host}-{dead.pid}-{target.name}"
    folder = tmp_path / f".{host}-{dead.pid}-b"
    others = [
        tmp_path / f".{host}-{os.getppid()}-{target.name}",  # a living process's
        tmp_path / f".other-{dead.pid}-{target.name}",  # another machine's
        tmp_path / f".{host}-{dead.pid}-another-{target.name}",  # another file's
        tmp_path / f".{host}-mine-{target.name}",
    ]
    for path in (left, *others):
        path.write_text("half")
    (folder / "within").mkdir(parents=True)
    assert temporary_beside(target) == tmp_path / f".{host}-{os.getpid()}-{target.name}"
    assert not left.exists() and all(path.exists() for path in others) and folder.exists()
    temporary_beside(tmp_path / "b")
    assert not folder.exists()


def test_a_link_that_leads_to_itself_can_be_named(tmp_path):
    link = tmp_path / "loop"
    link.symlink_to(link)
    assert relative(link).endswith("/loop")


def test_files_are_utf_8_whatever_the_locale(tmp_path):
    code = (
        "from kvhelpers.experiment.grid import Experiment, load_experiment, save_experiment\n"
        "made = Experiment(name='t', objective='Gr\\u00f6\\u00dfe \\u2212 1', grid=[{'press': 'none'}])\n"
        "assert load_experiment(save_experiment(made), saved=True).objective == made.objective\n"
    )
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "KVHELPERS_OUTPUT": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=os.environ | plain, check=True)


def test_an_output_folder_that_leads_to_itself_gets_a_sentence(tmp_path, monkeypatch, capsys):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    monkeypatch.setenv("KVHELPERS_OUTPUT", str(tmp_path / "loop"))
    assert main(["log", "nothing"]) == 2
    assert "has no finished condition in" in capsys.readouterr().err
