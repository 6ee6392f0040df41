import json
import re
import shlex

import pytest
from factories import SMALL_EXPERIMENT

from kvhelpers.__main__ import main, parse_overrides
from kvhelpers.errors import InputError
from kvhelpers.experiment.grid import find_experiment, finished_results, load_experiment, save_experiment
from kvhelpers.paths import REPOSITORY, results_dir
from kvhelpers.tasks.load import load_problems


def test_the_original_grid_is_experiment_001():
    experiment = load_experiment(REPOSITORY / "experiments" / "001-reproduce-failures.yaml")
    labels = [condition.label() for condition in experiment.conditions()]
    assert labels == ["none", "streaming_llm 0.5", "streaming_llm 0.875", "snapkv 0.875"]
    assert {condition.n_prompts for condition in experiment.conditions()} == {20}


def test_overrides_need_a_name_of_their_own(write):
    with pytest.raises(InputError, match="overrides need a new experiment name"):
        load_experiment(write(), overrides={"seed": 1})
    with pytest.raises(InputError, match="--set ratio has no effect on a grid"):
        load_experiment(write(), "other", {"ratio": 0.1})
    experiment = load_experiment(write(), "other", {"seed": 1})
    assert experiment.name == "other" and {condition.seed for condition in experiment.conditions()} == {1}
    assert all(condition.experiment == "other" for condition in experiment.conditions())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"gird": []}, "key 'gird' is unknown; did you mean 'grid'"),
        ({"grid": []}, "grid .* is not allowed"),
        ({"grid": [{"pres": "knorm"}]}, "grid key 'pres' is unknown; did you mean 'press'"),
        ({"grid": [{"press": "knorm", "ratio": 2}]}, "ratio 2 is outside"),
        (
            {"grid": [{"press": "knorm", "ratio": 0.5}] * 2},
            "grid has two conditions that write to knorm/smollm2-135m_0.5_2p",
        ),
        ({"parameters": {"n_prompt": 2}}, "parameter 'n_prompt' is unknown"),
        ({"parameters": [1]}, "lacks or garbles"),
        (
            {"parameters": {"data_file": "/etc/passwd"}},
            "data_file '/etc/passwd' is outside the repository; give it by --set",
        ),
        (
            {"parameters": {"data_file": "data/../../x.jsonl"}},
            "data_file 'data/../../x.jsonl' is outside the repository",
        ),
        ({"parameters": {"data_file": "~/x.jsonl"}}, "data_file '~/x.jsonl' is outside the repository"),
        ({"parameters": {"model": "../weights"}}, "model '../weights' is outside the repository"),
        ({"name": 5}, "name 5 is not allowed: it came as a number, and it is text; .* put it in quotes"),
        ({"grid": [{"press": 5}]}, "press 5 is not allowed: it came as a number"),
        ({"name": "a/b"}, "experiment 'a/b' is not allowed"),
        ({"name": ""}, "experiment '' is not allowed"),
        ({"name": "a" * 300}, "experiment 'aaa.* is not allowed.* at most 160 characters"),
        ({"name": "a" * 5000}, "experiment 'aaa.* is not allowed.* at most 160 characters"),
        (
            {"parameters": {"experiment": "../x"}},
            "parameters.experiment '../x' has no effect; the experiment is named by the key 'name'",
        ),
        ({"parameters": {"model": ""}}, "model '' is not allowed"),
        ({"parameters": {"model": "a" * 5000}}, "model 'aaa.* cannot be read: File name too long"),
        (
            {"grid": [{"press": "expected_attention", "press_kwargs": {"epsilon": float("nan")}}]},
            r"grid\[0\].press_kwargs.epsilon nan is not allowed: it is no finite number",
        ),
        ({"parameters": {"seed": {1, 2}}}, r"parameters.seed \{1, 2\} is not allowed: it is neither"),
        ({"parameters": {"seed": b"1"}}, "parameters.seed b'1' is not allowed: it is neither"),
        ({"grid": [{"press": "snapkv", "press_kwargs": {"window_size": 0}}]}, "window_size 0 is not allowed"),
        (
            {"grid": [{"press": "knorm", "ratio": [0, -0.0]}]},
            "grid has two conditions that write to knorm/smollm2-135m_0_2p",
        ),
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
        (b"[" * 5000, "is no YAML: it is nested too deeply"),
        (b"name: a\nname: b", "is no YAML: line 2 gives the key 'name' a second time"),
        (b"name: !!timestamp 2024-01-01", r"bad.yaml': name datetime.date\(2024, 1, 1\) is not allowed"),
        (b'name: "\\ud800"', "it has half of a Unicode character"),
        (b"name: a\nobjective: b\ngrid: [{press: none}]\nparameters: 1", "lacks or garbles"),
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


def test_a_path_of_the_user_s_own_may_lie_anywhere(write, tmp_path, output):
    file = tmp_path / "rows.jsonl"
    file.write_text(
        "".join(json.dumps({"question": f"{n}?", "answer": f"#### {n}"}) + "\n" for n in range(9))
    )
    path = write(parameters=SMALL_EXPERIMENT["parameters"] | {"task": "gsm8k"})
    experiment = load_experiment(path, "other", {"data_file": str(file)})
    save_experiment(experiment)
    assert find_experiment("other").parameters == experiment.parameters


def test_a_path_of_a_file_does_not_depend_on_where_one_stands(write, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.jsonl").write_text("secret")
    monkeypatch.chdir(tmp_path)
    for key in ("data_file", "model"):
        with pytest.raises(
            InputError, match=f"{key} 'data' is outside the repository|{key} 'data/x.jsonl' is outside"
        ):
            load_experiment(write(parameters={key: "data/x.jsonl"}))


def test_a_file_is_found_from_the_repository_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="line 1 is no JSON object"):
        load_problems("gsm8k", 1, 0, 0, "pyproject.toml")


@pytest.mark.parametrize("path", ["a\0b", "\ud800", "~nobody-here/x", "a" * 5000])
def test_paths_that_are_none_are_named(path):
    with pytest.raises(InputError, match="experiment file .* (is no path|cannot be read)"):
        load_experiment(path)


@pytest.mark.parametrize("text", ["1:30", "yes", "2024-01-01", "010"])
def test_yaml_1_1_s_readings_are_no_numbers_and_no_truth_values(tmp_path, text):
    """``1:30`` was 90, ``yes`` was true, a date was a traceback, and ``010`` was 8."""
    path = tmp_path / "small.yaml"
    path.write_text(f"name: small\nobjective: x\ngrid: [{{press: none}}]\nparameters: {{n_prompts: {text}}}")
    with pytest.raises(InputError, match=f"n_prompts '{text}' is not allowed"):
        load_experiment(path).conditions()


BAD_SAVED = {
    "parameters: {n_prompts: x}": "n_prompts 'x' is not allowed",
    "parameters: {n_prompt: 1}": "n_prompt",
    "parameters: [1]": "lacks or garbles",
    "parameters: {seed: 1, seed: 2}": "line 1 gives the key 'seed' a second time",
    "parameters: {}, gird: 1": "key 'gird' is unknown",
}


@pytest.mark.parametrize(("text", "sentence"), BAD_SAVED.items())
def test_a_bad_file_beside_results_is_named(output, text, sentence):
    path = results_dir("small") / "experiment.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(f"{{name: small, objective: x, grid: [{{press: none}}], {text}}}")
    with pytest.raises(InputError, match=f"experiment file '{re.escape(str(path))}'.*{sentence}") as caught:
        find_experiment("small")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "../x", "a" * 300, "a" * 5000, "\ud800", "a\0b", None, 5])
def test_results_are_not_looked_for_under_a_name_that_is_none(output, name):
    with pytest.raises(InputError, match="experiment .* is not allowed: (a name has|it came as a number)"):
        finished_results(name)


def test_the_noted_command_says_the_same_overrides(write):
    given = {
        "multiturn": False,
        "timeout_s": None,
        "attn": "eager",
        "seed": 7,
        "dtype": "1:30",
        "model": "a b",
    }
    command = shlex.split(load_experiment(write(), "other", given).command)
    assert parse_overrides(command[command.index("--set") + 1 :]) == given


def test_saved_experiments_keep_their_overrides(write, output):
    save_experiment(load_experiment(write(), "other", {"seed": 5}))
    assert find_experiment("other").parameters["seed"] == 5
    assert find_experiment("unheard-of") is None
