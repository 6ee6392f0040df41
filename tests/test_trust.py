"""Nothing that is read may run: no pickle, no remote code, no unsafe YAML, no shell."""

import ast
import json

import pytest

from kvhelpers.paths import REPOSITORY

MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CALLS = {
    "eval", "exec", "compile", "__import__",  # code from text
    "torch.load", "pandas.read_pickle",  # objects from files
    "yaml.load", "yaml.unsafe_load", "yaml.full_load",
    "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput",  # a shell
}  # fmt: skip
KEYWORDS = {
    "trust_remote_code": "False",
    "allow_pickle": "False",
    "shell": "False",
    "use_safetensors": "True",
    "output_loading_info": "True",
}
MAGIC = "%matplotlib inline\n"  # all that is allowed beside plain Python
SOURCES = sorted(
    path for folder in ("kvhelpers", "benchmarks", "notebooks")
    for path in (REPOSITORY / folder).rglob("*.[pi][yp]*")
    if path.suffix in (".py", ".ipynb") and not path.name.startswith(".")
)  # fmt: skip


def code_of(path):
    if path.suffix == ".py":
        return path.read_text()
    cells = json.loads(path.read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return code.replace(MAGIC, "")


def faults(code):
    """What in a program could run something that was read."""
    dangers, tree, names = [], ast.parse(code), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
            dangers += [alias.name for alias in node.names if alias.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            dangers += [node.module] if (node.module or "").split(".")[0] in MODULES else []
    for node in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        first, dot, rest = ast.unparse(node.func).partition(".")
        name, given = (
            names.get(first, first) + dot + rest,
            {keyword.arg: keyword.value for keyword in node.keywords},
        )
        dangers += [name] if name in CALLS else []
        dangers += [
            f"{name}({key}=…)"
            for key, value in given.items()
            if key in KEYWORDS and ast.unparse(value) != KEYWORDS[key]
        ]
        if name.endswith(".from_pretrained"):
            weights = "Tokenizer" not in name and "Config" not in name
            needed = ["output_loading_info"] if weights else []  # says which weights were drawn at random
            if "gguf_file" not in given:
                needed += ["trust_remote_code"] + (["use_safetensors"] if weights else [])
            dangers += [f"{name} without {key}" for key in needed if key not in given]
    return dangers


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_nothing_that_is_read_may_run(path):
    """But for code of one's own, which is there to be run."""
    allowed = ["exec", "compile", "compile"] if path.name == "own.py" else []
    assert faults(code_of(path)) == allowed


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("import pickle", "pickle"),
        ("from joblib import load", "joblib"),
        ("torch.load(path)", "torch.load"),
        ("import torch as th; th.load(path)", "torch.load"),
        ("from torch import load; load(path)", "torch.load"),
        ("import pandas as pd; pd.read_pickle(path)", "pandas.read_pickle"),
        ("from os import system as run; run(text)", "os.system"),
        ("yaml.load(text, Loader=loader)", "yaml.load"),
        ("np.load(path, allow_pickle=True)", "np.load(allow_pickle=…)"),
        (
            "AutoTokenizer.from_pretrained(name, trust_remote_code=flag)",
            "AutoTokenizer.from_pretrained(trust_remote_code=…)",
        ),
        ("AutoTokenizer.from_pretrained(name)", "AutoTokenizer.from_pretrained without trust_remote_code"),
        (
            "Model.from_pretrained(name, trust_remote_code=False, output_loading_info=True)",
            "Model.from_pretrained without use_safetensors",
        ),
        (
            "Model.from_pretrained(name, trust_remote_code=False, use_safetensors=True)",
            "Model.from_pretrained without output_loading_info",
        ),
        (
            "Model.from_pretrained(name, gguf_file=file)",
            "Model.from_pretrained without output_loading_info",
        ),
        ("subprocess.run(f'ls {path}', shell=True)", "subprocess.run(shell=…)"),
        ("eval(text)", "eval"),
    ],
)
def test_the_search_finds_what_it_looks_for(code, fault):
    assert faults(code) == [fault]


def test_notebooks_are_plain_python_and_everything_is_looked_at():
    assert {path.suffix for path in SOURCES} == {".py", ".ipynb"} and len(SOURCES) > 50
    with pytest.raises(SyntaxError):
        faults("!ls")
