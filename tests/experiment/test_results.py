"""Results of the schema before are refused with the command that brings them over, and brought over by it."""

import json
import shutil

import pytest
from factories import in_schema_4, reseal

from kvhelpers.commands import rescore as rescoring
from kvhelpers.commands.rescore import rescore
from kvhelpers.errors import InputError
from kvhelpers.experiment.condition import Condition, make_condition
from kvhelpers.experiment.identity import SCHEMA_VERSION
from kvhelpers.experiment.results import check_same_experiment, find_finished, read_result, result_path
from kvhelpers.paths import results_dir, samples_dir
from kvhelpers.tasks import chat, prompts

SAMPLE = "002-compression-sweep"
PRESSES = ("none", "knorm")


@pytest.fixture
def old(output):
    """The conditions of two presses of the committed sample as results of one's own, in schema 4."""
    for press in PRESSES:
        shutil.copytree(samples_dir() / SAMPLE / press, results_dir(SAMPLE) / press)
    paths = sorted(results_dir(SAMPLE).glob("*/*.json"))
    for path in paths:
        reseal(path, **in_schema_4(json.loads(path.read_text())))
    return paths


def asked(path) -> Condition:
    """The condition that an experiment file would ask for."""
    return make_condition(json.loads(path.read_text())["condition"] | {"device": "cpu"})


def test_results_of_the_schema_before_are_refused_with_the_command_that_brings_them_over(old):
    with pytest.raises(InputError, match=f"schema version 4; .* by python -m kvhelpers rescore {SAMPLE}$"):
        find_finished(asked(old[0]))
    reseal(old[0], schema_version=3)
    with pytest.raises(InputError, match="schema version 3; this version reads 5: delete it or"):
        rescore(SAMPLE)


def test_brought_over_they_are_those_of_the_sample(old):
    assert rescore(SAMPLE) == (0, 50 * len(old))
    for path in old:
        condition = asked(path)
        assert result_path(condition) == path and find_finished(condition) == read_result(path)
        sample = read_result(samples_dir() / SAMPLE / path.parent.name / path.name)
        assert read_result(path).model_copy(update={"seal": None}) == sample.model_copy(
            update={"path": path, "seal": None}
        )
    check_same_experiment(asked(old[0]))
    with pytest.raises(InputError, match=r"already holds .* \(seed 42 → 7\)"):
        check_same_experiment(asked(old[0]).model_copy(update={"seed": 7}))


def test_prompts_that_cannot_be_the_same_are_not_brought_over(old, monkeypatch):
    monkeypatch.setattr(rescoring, "ANOTHER_DAY", "2025-01-02")
    render = chat.render

    def with_the_day(tokenizer, messages, date, *rest, **how):
        dated = [{**messages[0], "content": f"{date}: {messages[0]['content']}"}, *messages[1:]]
        return render(tokenizer, dated, date, *rest, **how)

    monkeypatch.setattr(chat, "render", with_the_day)
    monkeypatch.setattr(prompts, "render", with_the_day)
    with pytest.raises(InputError, match="its prompts may have had other tokens than today"):
        rescore(SAMPLE)


def test_judging_again_changes_no_run_and_writes_the_schema_of_today(old):
    before = [read_result(path, previous=True) for path in old]
    reseal(old[0], summary=json.loads(old[1].read_text())["summary"])
    assert rescore(SAMPLE) == (0, 50 * len(old))
    assert [[(r.text, r.correct, r.failures) for r in read_result(path).records] for path in old] == [
        [(r.text, r.correct, r.failures) for r in result.records] for result in before
    ]
    assert [read_result(path).summary for path in old] == [result.summary for result in before]
    assert json.loads(old[0].read_text())["schema_version"] == SCHEMA_VERSION


def test_a_damaged_record_is_named_by_its_place(old):
    data = json.loads(old[0].read_text())
    data["records"][3]["stop_reason"] = "boredom"
    reseal(old[0], schema_version=SCHEMA_VERSION, records=data["records"])
    with pytest.raises(InputError, match=r"is no readable condition result \(records.3.stop_reason: "):
        read_result(old[0])
