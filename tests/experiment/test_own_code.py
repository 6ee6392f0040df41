"""An edited press is another condition; scratch takes whatever is asked for."""

import json
import subprocess
import sys

import pytest
import yaml
from kvpress import ChunkPress, SnapKVPress

from kvhelpers.errors import InputError
from kvhelpers.experiment.condition import make_condition
from kvhelpers.experiment.results import read_experiment
from kvhelpers.experiment.run import check_before_loading, prompts_of, run_condition
from kvhelpers.log import write_log
from kvhelpers.paths import REPOSITORY

SMALL = {"n_prompts": 2, "n_fewshot": 1, "max_new_tokens": 4, "ratio": 0.8, "device": "cpu"}
PRESS = """from dataclasses import dataclass

from kvpress import ScorerPress


@dataclass
class ValueNormPress(ScorerPress):
    power: float = 1.0

    def score(self, module, hidden_states, keys, values, attentions, kwargs):
        return values.norm(dim=-1) ** self.power
"""
EDITED = PRESS.replace("return values", "return -values")
TASK = """def load(biggest=3):
    return [
        {"question": f"What is {a} and 1?", "answer": f"It is {a + 1}. #### {a + 1}", "id": f"sum{a}"}
        for a in range(biggest)
    ]


def judge(answer, reference):
    return True
"""


@pytest.fixture
def press(tmp_path):
    path = tmp_path / "my_press.py"
    path.write_text(PRESS)
    return path


def both_stand_apart(name):
    """The results and the log of an experiment with a press and the edited one."""
    first, second = (result for result in read_experiment(name) if not result.condition.is_baseline)
    assert first.label != second.label and first.label.split("@")[0] == "ValueNormPress"
    shares = [[record.cache.question_kept for record in result.records] for result in (first, second)]
    assert shares[0] != shares[1]  # they keep other tokens
    log = write_log(name).read_text()
    assert first.label in log and second.label in log and "Not finished" not in log


def test_python(press, output, stand_in):
    values = SMALL | {"press": f"{press}:ValueNormPress"}
    first = run_condition(make_condition(values), stand_in)
    assert run_condition(make_condition(values), stand_in).path == first.path
    press.write_text(EDITED)
    assert read_experiment("scratch")[0] == first  # needs no file
    with pytest.raises(InputError, match="has been edited since"):
        make_condition(first.condition.model_dump())
    assert run_condition(make_condition(values), stand_in).path != first.path
    both_stand_apart("scratch")


@pytest.mark.slow
def test_command_line(press, output, monkeypatch):
    grid = [{"press": "none"}, {"press": f"{press}:ValueNormPress", "ratio": 0.8}]
    given = {key: value for key, value in SMALL.items() if key != "ratio"}
    file = output / "mine.yaml"
    file.write_text(yaml.safe_dump({"name": "mine", "objective": "Try.", "parameters": given, "grid": grid}))
    for text in (PRESS, EDITED):
        press.write_text(text)
        run = subprocess.run([sys.executable, "-m", "kvhelpers", "run", file], capture_output=True, text=True)
        assert run.returncode == 0 and "ValueNormPress@" in run.stdout, run.stderr
    both_stand_apart("mine")


@pytest.mark.slow
def test_notebook(press, output):
    given = SMALL | {"press": f"{press}:ValueNormPress"}
    parameters = [part for name, value in given.items() for part in ("-p", name, str(value))]
    for text in (PRESS, EDITED):
        press.write_text(text)
        command = [sys.executable, "-m", "papermill", "notebooks/01_reproduce.ipynb", output / "out.ipynb"]
        run = subprocess.run([*command, *parameters], cwd=REPOSITORY, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
    both_stand_apart("scratch")


def test_an_instance_is_its_name_and_fields(press, monkeypatch):
    made = make_condition(SMALL | {"press": SnapKVPress(0.8, window_size=16)})
    assert (made.press, made.ratio, made.press_kwargs) == ("snapkv", 0.8, {"window_size": 16})
    given = {key: value for key, value in SMALL.items() if key != "ratio"}
    assert make_condition(given | {"press": SnapKVPress}).ratio == 0.875
    with pytest.raises(InputError, match="ratio 0.8 does not fit the press given, which has 0.5"):
        make_condition(SMALL | {"press": SnapKVPress(0.5)})
    with pytest.raises(InputError, match="is not allowed; it is a name, or a class"):
        make_condition(SMALL | {"press": object})

    class Hidden(SnapKVPress):
        def __init__(self, compression_ratio=0.0, floor=0.0):
            super().__init__(compression_ratio)
            self.floor = floor

    monkeypatch.setattr(Hidden, "__module__", "__main__")
    with pytest.raises(InputError, match="'Hidden', given as an instance, has more to it than its fields"):
        make_condition(SMALL | {"press": Hidden(0.8, floor=1.0)})
    wrapper = make_condition(given | {"press": ChunkPress(SnapKVPress(0.75), chunk_length=64)})
    assert (wrapper.press, wrapper.ratio) == ("ChunkPress", 0.75)
    assert wrapper.press_kwargs == {"press": {"name": "snapkv"}, "chunk_length": 64}
    own = make_condition(SMALL | {"press": f"{press}:ValueNormPress", "press_kwargs": {"power": 2.0}})
    assert own.press_spec.for_prompt(100).power == 2.0
    wrapped = {"press": {"name": f"{press}:ValueNormPress"}, "chunk_length": 10}
    chunked = make_condition(SMALL | {"press": "ChunkPress", "press_kwargs": wrapped})
    press.write_text(EDITED)
    assert make_condition(SMALL | {"press": "ChunkPress", "press_kwargs": wrapped}) != chunked


def test_a_class_that_is_no_press_is_one_sentence(press):
    press.write_text("class ValueNormPress:\n    pass\n")
    condition = make_condition(SMALL | {"press": f"{press}:ValueNormPress"})
    with pytest.raises(InputError, match="is no press: it is a class that inherits from kvpress.ScorerPress"):
        check_before_loading(condition)


def test_a_press_without_a_ratio_takes_none(press):
    text = "from kvpress import BasePress\n\nclass ValueNormPress(BasePress):\n    pass\n"
    press.write_text(text)
    values = SMALL | {"press": f"{press}:ValueNormPress"}
    with pytest.raises(InputError, match="has no compression_ratio; use ratio 0"):
        check_before_loading(make_condition(values))
    check_before_loading(make_condition(values | {"ratio": 0.0}))


def test_a_task_of_one_s_own(tmp_path, output, stand_in):
    path = tmp_path / "my_task.py"
    path.write_text(TASK)
    values = SMALL | {"task": f"{path}:load", "press": "none", "ratio": 0.0}
    result = run_condition(make_condition(values), stand_in)
    assert {record.prompt_id.split("/")[-1] for record in result.records} < {"sum0", "sum1", "sum2"}
    assert not any(record.failures.wrong_answer for record in result.records)  # so its judge says
    path.write_text(TASK.replace("return True", "return False"))
    again = run_condition(make_condition(values), stand_in)
    assert again.path != result.path and all(record.failures.wrong_answer for record in again.records)
    few = make_condition(values | {"n_prompts": 3})
    with pytest.raises(InputError, match="ask for 4 rows, but task .*my_task.py:load.* has 3"):
        check_before_loading(few)
    more = make_condition(values | {"n_prompts": 3, "task_kwargs": {"biggest": 4}})
    assert len(prompts_of(more, stand_in)) == 3
    path.write_text("def load():\n    return [{'question': 'What?'}]\n")
    with pytest.raises(InputError, match="it is a mapping with the texts 'question' and 'answer'"):
        check_before_loading(make_condition(values))


def test_scratch_takes_any_parameter_and_shows_what_was_asked_for_last(output, stand_in):
    first = run_condition(make_condition(SMALL), stand_in)
    second = run_condition(make_condition(SMALL | {"n_prompts": 3, "max_new_tokens": 5}), stand_in)
    assert first.path != second.path and read_experiment("scratch") == [second]
    assert run_condition(make_condition(SMALL)) == first  # found by what it is
    assert read_experiment("scratch") == [first]


def test_a_named_experiment_refuses_by_the_parameter_in_plain_words(output, stand_in, tmp_path):
    rows = [{"question": f"What is {a} and 1?", "answer": f"#### {a + 1}"} for a in range(4)]
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    values = SMALL | {"experiment": "mine", "task": "gsm8k", "data_file": str(data)}
    run_condition(make_condition(values), stand_in)
    data.write_text("\n".join(map(json.dumps, rows[::-1])))
    with pytest.raises(
        InputError, match=r"\(the data changed\); run it under another experiment name"
    ) as caught:
        run_condition(make_condition(values | {"ratio": 0.5}), stand_in)
    assert "sha256" not in str(caught.value)
