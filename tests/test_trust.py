"""Nothing that is read may run: no pickle, no remote code, no unsafe YAML, no shell."""

import ast
import json

import pytest

from kvhelpers.paths import REPOSITORY

MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CALLS = {
    "eval", "exec", "compile", "__import__",  # code from text
    "torch.load", "pd.read_pickle", "yaml.load", "yaml.unsafe_load", "yaml.full_load",  # objects from files
    "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput",  # a shell
}  # fmt: skip
KEYWORDS = {"trust_remote_code": False, "allow_pickle": False, "shell": False, "weights_only": True, "use_safetensors": True}
MAGIC = "%matplotlib inline\n"  # all that is allowed beside plain Python
SOURCES = sorted(
    path for folder in ("kvhelpers", "benchmarks", "notebooks") for path in (REPOSITORY / folder).rglob("*.[pi][yp]*")
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
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom):
            found += [node.module] if (node.module or "").split(".")[0] in MODULES else []
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            found += [name] if name in CALLS else []
            for keyword in node.keywords:
                if keyword.arg in KEYWORDS and ast.unparse(keyword.value) != str(KEYWORDS[keyword.arg]):
                    found.append(f"{name}({keyword.arg}=…)")
            if name.endswith(".from_pretrained") and name.startswith("Auto"):
                given = {keyword.arg for keyword in node.keywords}
                found += [] if "trust_remote_code" in given or "gguf_file" in given else [f"{name} without trust_remote_code"]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_nothing_that_is_read_may_run(path):
    assert faults(code_of(path)) == []


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("import pickle", "pickle"),
        ("from joblib import load", "joblib"),
        ("torch.load(path)", "torch.load"),
        ("yaml.load(text, Loader=loader)", "yaml.load"),
        ("np.load(path, allow_pickle=True)", "np.load(allow_pickle=…)"),
        ("AutoModel.from_pretrained(name, trust_remote_code=flag)", "AutoModel.from_pretrained(trust_remote_code=…)"),
        ("AutoModel.from_pretrained(name)", "AutoModel.from_pretrained without trust_remote_code"),
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
