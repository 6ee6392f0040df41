"""Code of one's own, by name: ``my_press.py:ValueNormPress`` in a file, ``package.module:Name`` in a package.

A condition keeps such a name with a hash of the code behind it, ``my_press.py:ValueNormPress@1a2b3c4d5e6f``:
of its file, and of the files beside it that it imports, and those that they import. So what was edited is
another condition, and results say which code they are of when the file is long gone. In Python a class can be
given itself; one that no file has, as in a notebook's cell, is called ``here:Name@…`` and known to this
process only.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.machinery
import importlib.util
import inspect
import re
import sys
import sysconfig
import textwrap
import types
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from kvhelpers.errors import InputError, shown
from kvhelpers.paths import REPOSITORY, user_path

FORM = re.compile(r"(?P<where>.+):(?P<name>[^\W\d]\w*)(?:@(?P<hash>[0-9a-f]{12}))?")
HERE = "here"
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
INSTALLED = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")]
_LOADED: dict[str, Any] = {}  # by name with hash
_HERE: dict[str, type] = {}  # classes that no file has


def is_own(name: object) -> bool:
    """Whether a name is meant as one of the user's own code."""
    return isinstance(name, str) and ":" in name


def short(name: str) -> str:
    """``ValueNormPress@1a2b3c4d5e6f``: what tells code apart, wherever it lies; other names as they are."""
    found = FORM.fullmatch(name) if is_own(name) else None
    return f"{found['name']}@{found['hash']}" if found and found["hash"] else name


def bare(label: str) -> str:
    """A condition's label without the place and the hash of its press's code."""
    return re.sub(r"^(?:\S*:)?(\w+)(?:@[0-9a-f]{12})?(?=\s|$)", r"\1", label)


def with_hash(parameter: str, name: str) -> str:
    """The name with the hash of the code that is there now, its file as seen from the repository.

    Raises
    ------
    InputError : it is no such name; no file, no text of Python, or nothing of that name in it; it has a hash
        already, and the code has been edited since.
    """
    found = FORM.fullmatch(name)
    if found is None:
        raise InputError(
            f"{parameter} {shown(name)} is not allowed; code of your own is named my_file.py:Name or "
            "package.module:Name"
        )
    where, wanted = found["where"], found["hash"]
    if where == HERE:
        if name not in _HERE:
            raise InputError(
                f"{parameter} {name!r} was defined in another Python process, or in no file; write it to a "
                "file and name it my_file.py:Name"
            )
        return name
    path = _path(parameter, where)
    files = list(_files(parameter, path))
    defined = [node.name for node in ast.parse(files[0][1]).body if hasattr(node, "name")]
    if found["name"] not in defined:
        raise InputError(
            f"{parameter} {shown(name)}: {path} defines no {found['name']!r}; it has "
            f"{', '.join(defined) or 'nothing'}"
        )
    digest = hashlib.sha256(
        repr([(str(file.relative_to(path.parent)), text) for file, text in files]).encode()
    )
    now = digest.hexdigest()[:12]
    if wanted not in (None, now):
        raise InputError(
            f"{parameter} {name!r}: {path} has been edited since (hash {now}); leave the hash out to use it "
            "as it is"
        )
    if where.endswith(".py"):
        where = path.relative_to(REPOSITORY).as_posix() if path.is_relative_to(REPOSITORY) else str(path)
    return f"{where}:{found['name']}@{now}"


def load(parameter: str, name: str) -> Any:
    """What a name with a hash stands for. A file is read anew when it was edited, and with it what it imports
    from its folder.

    Raises
    ------
    InputError : as `with_hash`; the code fails while it is imported; a package's module that this process
        imported before it was edited.
    """
    name = with_hash(parameter, name)
    if name in _HERE:
        return _HERE[name]
    if name not in _LOADED:
        found = FORM.fullmatch(name)
        path = _path(parameter, found["where"])
        try:
            is_file = found["where"].endswith(".py")
            module = _fresh(path, found["hash"]) if is_file else _imported(parameter, found["where"], path)
            _LOADED[name] = getattr(module, found["name"])
        except InputError:
            raise
        except Exception as error:  # somebody else's program
            raise InputError(f"{parameter} {name!r} cannot be imported: {error!r}") from error
    return _LOADED[name]


def name_of(parameter: str, given: type) -> str:
    """The name with hash of a class that is given itself.

    Raises
    ------
    InputError : a class within another one; one that was edited in its file after it was imported.
    """
    module = sys.modules.get(given.__module__)
    path = Path(getattr(module, "__file__", None) or "nowhere")
    if given.__module__ == "__main__" or not path.is_file():
        name = f"{HERE}:{given.__name__}@{_hash_of_class(given) or uuid.uuid4().hex[:12]}"
        _HERE[name] = given
        return name
    if "." in given.__qualname__:
        raise InputError(
            f"{parameter} {given.__qualname__} is not allowed: it is defined within something else"
        )
    name = with_hash(parameter, f"{path}:{given.__name__}")
    if _codes(load(parameter, name)) != _codes(given):
        raise InputError(
            f"{parameter} {given.__name__}: {path} was edited after it was imported; import it again, or "
            f"name it '{path.name}:{given.__name__}'"
        )
    return name


def _path(parameter: str, where: str) -> Path:
    """The file of a module, by its path as seen from here or from the repository, or by its dotted name."""
    if where.endswith(".py"):
        given = user_path(parameter, where)
        path = next((one for one in (given, REPOSITORY / given) if one.is_file()), None)
        if path is None:
            raise InputError(
                f"{parameter} {shown(where)} is no file, as seen from here or from the repository"
            )
        return path.resolve()
    try:
        spec = importlib.util.find_spec(where)
    except Exception:  # it imports the packages above, anybody's program
        spec = None
    if spec is None or not (spec.origin or "").endswith(".py"):
        raise InputError(
            f"{parameter} {shown(where)} is no module of Python that can be found here; a file is named with "
            "its ending, my_file.py:Name"
        )
    return Path(spec.origin).resolve()


def _files(parameter: str, path: Path) -> Iterator[tuple[Path, str]]:
    """A file and those of its folder that it imports, directly or not, with their texts."""
    folder, waiting, seen = path.parent, [path], set()
    while waiting:
        file = waiting.pop(0)
        if file in seen:
            continue
        seen.add(file)
        try:
            text = file.read_text(encoding="utf-8")
            tree = ast.parse(text)
        except (OSError, ValueError, SyntaxError) as error:
            raise InputError(f"{parameter}: {file} cannot be read as Python: {error}") from error
        yield file, text
        functions = (node for node in ast.walk(tree) if isinstance(node, FUNCTIONS))
        late = {id(node) for function in functions for node in ast.walk(function)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module] if node.module else [alias.name for alias in node.names]
            else:
                continue
            firsts = {name.removeprefix(f"{folder.name}.").split(".")[0] for name in names}
            firsts -= {__package__}  # this project, of which results name the commit
            beside = [one for first in sorted(firsts) for one in _beside(folder, first)]
            if getattr(node, "level", 0) > 1 or (beside and id(node) in late):
                raise InputError(
                    f"{parameter}: {file} line {node.lineno} imports from above its folder, or within a "
                    "function, where an edit would not be seen; import it at the file's beginning, from its "
                    "folder"
                )
            waiting += beside


def _beside(folder: Path, name: str) -> list[Path]:
    """The files of a module or a package in a folder."""
    package = sorted((folder / name).rglob("*.py")) if (folder / name).is_dir() else []
    return package + [file for file in [folder / f"{name}.py"] if file.is_file()]


def _fresh(path: Path, digest: str) -> types.ModuleType:
    """A file's module, and what it imports from its folder, as they are now."""
    name = f"kvhelpers_own_{path.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    own = {file for file, _ in _files("file", path)}
    hidden = {key: sys.modules.pop(key) for key in _modules_of(own)}
    finder = _Beside(path.parent, own)
    sys.meta_path.insert(0, finder)
    sys.modules[name] = module  # dataclasses look there
    try:
        exec(compile(path.read_text(encoding="utf-8"), path, "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.meta_path.remove(finder)
        for key in _modules_of(own - {path}):
            del sys.modules[key]
        sys.modules.update(hidden)
    return module


class _Source(importlib.machinery.SourceFileLoader):
    """Compiles what stands in the file; a compiled file may be of another text of the same second."""

    def get_code(self, fullname: str) -> types.CodeType:
        return compile(self.get_data(self.path), self.path, "exec")


class _Beside:
    """Finds these files, modules of a folder and of its packages."""

    def __init__(self, folder: Path, files: set[Path]):
        self.folder, self.files = folder, files

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        for place in [str(self.folder)] if path is None else path:
            spec = importlib.machinery.FileFinder(place, (_Source, [".py"])).find_spec(name)
            if spec is not None and spec.origin and Path(spec.origin).resolve() in self.files:
                return spec
        return None


def _modules_of(files: set[Path]) -> list[str]:
    """The names of the imported modules that are these files."""
    places = {key: getattr(module, "__file__", None) for key, module in list(sys.modules.items())}
    return [key for key, place in places.items() if place and Path(place).resolve() in files]


def _imported(parameter: str, dotted: str, path: Path) -> types.ModuleType:
    """A package's module, imported once; refused where it was edited after this process began and it may be
    the old one.
    """
    started = psutil.Process().create_time()
    edited = [file for file, _ in _files(parameter, path) if file.stat().st_mtime > started]
    if dotted in sys.modules and edited:
        raise InputError(
            f"{parameter} {dotted!r}: {edited[0]} was edited after this process began, and may have been "
            "imported before; start Python again, or name the file itself"
        )
    return importlib.import_module(dotted)


def _functions(given: type) -> list[types.FunctionType]:
    members = (
        getattr(member, "fget", None) or getattr(member, "__func__", member)
        for member in vars(given).values()
    )
    return [member for member in members if isinstance(member, types.FunctionType)]


def _codes(given: type) -> list[tuple]:
    """What the functions of a class do, to tell two states of it apart."""
    own = (function.__code__ for function in _functions(given) if function.__code__.co_filename != "<string>")
    return [
        (code.co_name, code.co_code, repr([c for c in code.co_consts if not inspect.iscode(c)]))
        for code in own
    ]


def _hash_of_class(given: type) -> str | None:
    """A hash of a class that no file has; None where its source is not all of it: where it encloses
    variables, or reads some, or what is not installed, of which an edit would not be seen.
    """
    try:
        text = inspect.getsource(given)
    except (OSError, TypeError):
        return None
    around = vars(sys.modules["__main__"])
    for function in _functions(given):
        if any(name != "__class__" for name in function.__code__.co_freevars):
            return None
    read = {node.id for node in ast.walk(ast.parse(textwrap.dedent(text))) if isinstance(node, ast.Name)}
    values = [around[name] for name in read if name in around and around[name] is not given]
    if not all(map(_is_installed, [*values, *given.__mro__[1:]])):
        return None
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _is_installed(value: object) -> bool:
    """Whether a value is a module, a function or a class of Python or of a package that is installed."""
    is_module = isinstance(value, types.ModuleType)
    name = value.__name__ if is_module else getattr(value, "__module__", None)
    first = (name or "__main__").split(".")[0]
    file = getattr(sys.modules.get(first), "__file__", None)
    if file is None or first == "__main__":
        return first in sys.builtin_module_names
    return first == __package__ or any(Path(file).resolve().is_relative_to(one) for one in INSTALLED)
