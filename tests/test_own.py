"""Code of one's own is told apart by its source, and read anew when it was edited."""

import math
import os
import subprocess
import sys
import types

import pytest

from kvhelpers import own
from kvhelpers.errors import InputError

VALUE = "import beside\n\nclass Press:\n    def score(self):\n        return beside.SIGN\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(VALUE)
    (tmp_path / "beside.py").write_text("SIGN = 1\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_edit_of_the_file_or_of_what_it_imports_is_other_code(folder):
    first = own.with_hash("press", "mine.py:Press")
    assert own.load("press", first)().score() == 1
    (folder / "beside.py").write_text("SIGN = -1\n")
    second = own.with_hash("press", "mine.py:Press")
    assert own.short(second) != own.short(first) and own.load("press", second)().score() == -1
    with pytest.raises(InputError, match="has been edited since"):
        own.load("press", first)
    (folder / "beside.py").write_text("SIGN = 1\n")
    assert own.with_hash("press", "mine.py:Press") == first
    assert "beside" not in sys.modules  # an edit of it would not be seen there


def test_what_lies_beside_and_is_not_imported_does_not_matter(folder):
    first = own.with_hash("press", "mine.py:Press")
    (folder / "other.py").write_text("SIGN = 2\n")
    assert own.with_hash("press", str(folder / "mine.py") + ":Press") == first


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mine.py:Other", "defines no 'Other'; it has Press"),
        ("nowhere.py:Press", "is no file"),
        ("no.such.module:Press", "is no module"),
        ("mine.py:not a name", "is not allowed"),
        ("broken.py:Press", "cannot be read as Python"),
        ("here:Press@0123456789ab", "another Python process"),
    ],
)
def test_what_is_not_there_is_one_sentence(folder, name, reason):
    (folder / "broken.py").write_text("class Press(:\n")
    with pytest.raises(InputError, match=reason):
        own.with_hash("press", name)


def test_an_edit_within_a_second_is_seen_whatever_was_compiled(folder):
    """Python itself goes by time and size, of which both may be the same."""
    for sign in (1, 2):
        (folder / "beside.py").write_text(f"SIGN = {sign}\n")
        os.utime(folder / "beside.py", (1, 1))
        subprocess.run(
            [sys.executable, "-c", "import beside"],
            cwd=folder,
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": ""},
        )
        assert own.load("press", own.with_hash("press", "mine.py:Press"))().score() == sign


@pytest.mark.parametrize(
    "text", ["from .. import other\n", "def late():\n    import beside\n\n\nclass Press: pass\n"]
)
def test_imports_that_cannot_be_followed_are_refused(folder, text):
    (folder / "mine.py").write_text(text)
    with pytest.raises(InputError, match="line [12] imports from above its folder, or within a function"):
        own.with_hash("press", "mine.py:Press")


def test_code_that_fails_is_one_sentence(folder):
    (folder / "mine.py").write_text("class Press: pass\nraise ValueError('no')\n")
    with pytest.raises(InputError, match="cannot be imported: ValueError"):
        own.load("press", "mine.py:Press")


def run(code, folder):
    """What a Python process of its own prints."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), os.getcwd(), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=folder
    )
    return done.stdout.strip() or done.stderr


def test_a_module_edited_after_its_import_is_refused(folder):
    code = (
        "import mine, pathlib, time\nfrom kvhelpers import own\ntime.sleep(1.1)\n"
        "pathlib.Path('mine.py').write_text(pathlib.Path('mine.py').read_text() + '\\n')\n"
        "try:\n    own.load('press', 'mine:Press')\nexcept Exception as error:\n    print(error)\n"
    )
    assert "was edited after this process began" in run(code, folder)


def test_a_class_given_itself_is_the_one_in_its_file_or_refused(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))
    from mine import Press

    try:
        assert own.name_of("press", Press) == own.with_hash("press", f"{folder}/mine.py:Press")
        (folder / "mine.py").write_text(VALUE.replace("return beside.SIGN", "return -beside.SIGN"))
        with pytest.raises(InputError, match="was edited after it was imported"):
            own.name_of("press", Press)
    finally:
        for name in ("mine", "beside"):
            sys.modules.pop(name, None)


def test_a_class_that_reads_variables_of_its_cell_is_never_the_same_again(monkeypatch):
    import __main__

    texts = {"Plain": "class Plain:\n    def score(self):\n        return math.pi\n"}
    texts["Reads"] = "class Reads:\n    def score(self):\n        return SIGN\n"
    texts["Calls"] = "class Calls:\n    def score(self):\n        return mine.SIGN\n"
    monkeypatch.setattr(__main__, "SIGN", 1, raising=False)
    mine = types.ModuleType("mine")  # it may be edited
    monkeypatch.setitem(sys.modules, "mine", mine)
    monkeypatch.setattr(__main__, "mine", mine, raising=False)
    monkeypatch.setattr(__main__, "math", math, raising=False)
    names = {}
    for name, text in texts.items():
        exec(compile(text, "<cell>", "exec"), vars(__main__))
        made = vars(__main__).pop(name)
        monkeypatch.setattr(own.inspect, "getsource", lambda _, text=text: text)
        names[name] = [own.name_of("press", made) for _ in range(2)]
        assert own.load("press", names[name][0]) is made
    assert names["Plain"][0] == names["Plain"][1] and names["Reads"][0] != names["Reads"][1]
    assert names["Calls"][0] != names["Calls"][1]
