import json
import os
import re
import subprocess
import sys

import pytest
import yaml
from filelock import FileLock

from kvhelpers import runner
from kvhelpers.__main__ import main
from kvhelpers.cell import run_cell
from kvhelpers.errors import InputError
from kvhelpers.experiment import find_experiment, load_experiment, save_experiment
from kvhelpers.paths import REPOSITORY, log_path, results_dir
from kvhelpers.tasks import load_problems

SMALL = {
    "name": "small",
    "objective": "See that it runs.",
    "parameters": {"n_prompts": 2, "n_fewshot": 1, "max_new_tokens": 12, "device": "cpu"},
    "grid": [{"press": "none"}, {"press": "knorm", "ratio": 0.5}],
}


@pytest.fixture
def write(tmp_path):
    def write(**changes):
        path = tmp_path / "experiment.yaml"
        path.write_text(yaml.safe_dump(SMALL | changes))
        return path

    return write


def test_the_original_grid_is_experiment_001():
    experiment = load_experiment(REPOSITORY / "experiments" / "001-reproduce-failures.yaml")
    labels = [config.label() for config in experiment.configs()]
    assert labels == ["none", "streaming_llm 0.5", "streaming_llm 0.875", "snapkv 0.875"]
    assert {config.n_prompts for config in experiment.configs()} == {20}


def test_overrides_need_a_name_of_their_own(write):
    with pytest.raises(InputError, match="overrides need a new experiment name"):
        load_experiment(write(), overrides={"seed": 1})
    with pytest.raises(InputError, match="--set ratio has no effect on a grid"):
        load_experiment(write(), "other", {"ratio": 0.1})
    experiment = load_experiment(write(), "other", {"seed": 1})
    assert experiment.name == "other" and {config.seed for config in experiment.configs()} == {1}
    assert all(config.experiment == "other" for config in experiment.configs())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"gird": []}, "key 'gird' is unknown; did you mean 'grid'"),
        ({"grid": []}, "grid .* is not allowed"),
        ({"grid": [{"pres": "knorm"}]}, "grid key 'pres' is unknown; did you mean 'press'"),
        ({"grid": [{"press": "knorm", "ratio": 2}]}, "ratio 2 is outside"),
        ({"grid": [{"press": "knorm", "ratio": 0.5}] * 2}, "grid has two cells that write to knorm/smollm2-135m_0.5_2p"),
        ({"parameters": {"n_prompt": 2}}, "parameter 'n_prompt' is unknown"),
        ({"parameters": [1]}, "lacks or garbles"),
        ({"parameters": {"data_file": "/etc/passwd"}}, "data_file '/etc/passwd' is outside the repository; give it by --set"),
        ({"parameters": {"data_file": "data/../../x.jsonl"}}, "data_file 'data/../../x.jsonl' is outside the repository"),
        ({"parameters": {"data_file": "~/x.jsonl"}}, "data_file '~/x.jsonl' is outside the repository"),
        ({"parameters": {"model": "../weights"}}, "model '../weights' is outside the repository"),
        ({"name": 5}, "name 5 is not allowed"),
        ({"name": "a/b"}, "experiment 'a/b' is not allowed"),
    ],
)
def test_bad_files_get_one_sentence_and_leave_nothing(write, output, capsys, changes, sentence):
    path = write(**changes)
    before = sorted(output.rglob("*"))
    assert main(["run", str(path)]) == 2
    error = capsys.readouterr().err
    assert re.search(sentence, error) and error.count("\n") == 1
    assert sorted(output.rglob("*")) == before


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"a: [", "is no YAML"),
        (b"\xff\xfe\x00", "is no YAML"),
        (b"- 1", "holds no mapping"),
        (b"[" * 5000, "is no YAML"),
        (b"objective: x", "lacks or garbles 'name'"),
    ],
)
def test_files_that_are_no_experiment(tmp_path, content, sentence):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        load_experiment(path)
    with pytest.raises(InputError, match="cannot be read"):
        load_experiment(tmp_path / "missing.yaml")


def test_bad_command_lines(capsys, output):
    assert main(["run", "x.yaml", "--name", "n", "--set", "novalue"]) == 2
    assert "--set 'novalue' is no key=value" in capsys.readouterr().err
    assert main(["log", "nothing-there"]) == 2


def test_a_path_of_the_user_s_own_may_lie_anywhere(write, tmp_path, output):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"question": f"{n}?", "answer": f"#### {n}"}) + "\n" for n in range(9)))
    path = write(parameters=SMALL["parameters"] | {"task": "gsm8k"})
    experiment = load_experiment(path, "other", {"data_file": str(file)})
    save_experiment(experiment)
    assert find_experiment("other").parameters == experiment.parameters


def test_a_path_of_a_file_does_not_depend_on_where_one_stands(write, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.jsonl").write_text("secret")
    monkeypatch.chdir(tmp_path)
    for key in ("data_file", "model"):
        with pytest.raises(InputError, match=f"{key} 'data' is outside the repository|{key} 'data/x.jsonl' is outside"):
            load_experiment(write(parameters={key: "data/x.jsonl"}))


def test_cells_of_another_experiment_are_found_before_anything_runs(write, output, embedded, capsys):
    run_cell(load_experiment(write()).configs()[0], embedded)
    odd = run_cell(load_experiment(write(), "odd", {"seed": 7}).configs()[1], embedded)
    stray = results_dir("small") / "random" / "stray.json"
    stray.parent.mkdir()
    stray.write_text(odd.path.read_text())
    assert main(["run", str(write())]) == 2
    assert re.search("already holds .*stray.json with another configuration \\(seed 7 → 42\\)", capsys.readouterr().err)


def test_a_file_is_found_from_the_repository_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="line 1 is no JSON object"):
        load_problems("gsm8k", 1, 0, 0, "pyproject.toml")


def test_every_set_counts(write, monkeypatch, output):
    seen = {}
    monkeypatch.setattr(
        "kvhelpers.__main__.run_experiment", lambda experiment, *_: seen.update(experiment.parameters) or output
    )
    assert main(["run", str(write()), "--name", "other", "--set", "seed=1", "--set", "n_prompts=3", "n_fewshot=0"]) == 0
    assert (seen["seed"], seen["n_prompts"], seen["n_fewshot"]) == (1, 3, 0)


def test_an_experiment_runs_once_and_logs(write, output, capsys, monkeypatch):
    path = write()
    assert main(["run", str(path)]) == 0
    told = capsys.readouterr().out
    assert "experiments/small.md" in told and log_path("small").exists()
    executed = sorted(p.relative_to(results_dir("small")).as_posix() for p in results_dir("small").rglob("*.ipynb"))
    assert executed == ["knorm/smollm2-135m_0.5_2p.ipynb", "none/smollm2-135m_0_2p.ipynb"]
    log = log_path("small").read_text()
    assert "See that it runs." in log and log.index("| none |") < log.index("| knorm |")
    monkeypatch.setattr(runner, "run_cells", lambda *_: pytest.fail("a finished cell ran again"))
    assert main(["run", str(path)]) == 0
    assert log_path("small").read_text() == log
    assert find_experiment("small").objective == "See that it runs."


def test_one_failing_cell_is_named_and_the_others_go_on(write, output, capsys):
    results_dir("small").mkdir(parents=True)
    (results_dir("small") / "none").write_text("a file where the cell's folder should be")
    assert main(["run", str(write())]) == 2
    assert re.search("1 of 2 cells failed: none: (FileExists|NotADirectory)Error", capsys.readouterr().err)
    assert "**Not finished:** none." in log_path("small").read_text()


def test_a_dry_run_tells_what_is_left_and_writes_nothing(write, output, capsys, embedded):
    path = write()
    before = sorted(output.rglob("*"))
    assert main(["run", str(path), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"2 of 2 cells with 4 prompts to do, about \d+ min on one worker \(at most", told)
    assert sorted(output.rglob("*")) == before
    run_cell(load_experiment(path).configs()[1], embedded)
    assert main(["run", str(path), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"1 of 2 cells with 2 prompts to do, .*\d s a prompt in the 1 finished cells", told)
    assert re.search(r"knorm 0.5 +2 +2\n", told) and re.search(r"none +2 +0\n", told)


def test_saved_experiments_keep_their_overrides(write, output):
    save_experiment(load_experiment(write(), "other", {"seed": 5}))
    assert find_experiment("other").parameters["seed"] == 5
    assert find_experiment("unheard-of") is None


def test_one_runner_at_a_time(write, output, capsys):
    results_dir("small").mkdir(parents=True)
    with FileLock(results_dir("small") / ".lock"):
        assert main(["run", str(write())]) == 2
    assert "experiment 'small' is being run by another process; wait until it ends" in capsys.readouterr().err
    assert [path.name for path in results_dir("small").iterdir()] == [".lock"]


FULL = (
    "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)); "
    "from kvhelpers.__main__ import main; sys.exit(main(['log', 'small']))"
)


def test_a_disk_that_takes_no_more_is_named_and_nothing_is_lost(write, output, embedded):
    """A limit on the size of files stands for a full disk: writing fails in the middle of a file."""
    run_cell(load_experiment(write()).configs()[0], embedded)
    assert main(["log", "small"]) == 0
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    run = subprocess.run([sys.executable, "-c", FULL], capture_output=True, text=True, env=dict(os.environ))
    assert run.returncode == 2 and re.search(r"kvhelpers: error: File too large.*; what was finished is kept\n$", run.stderr)
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before
