import json
import re

import pytest
from factories import SMALL_EXPERIMENT

from kvhelpers.__main__ import main
from kvhelpers.errors import InputError
from kvhelpers.experiment.grid import find_experiment, load_experiment, save_experiment
from kvhelpers.paths import REPOSITORY
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


def test_saved_experiments_keep_their_overrides(write, output):
    save_experiment(load_experiment(write(), "other", {"seed": 5}))
    assert find_experiment("other").parameters["seed"] == 5
    assert find_experiment("unheard-of") is None
