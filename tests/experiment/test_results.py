"""Results of the schema before are read, recognized and judged again like those of today."""

import json
import shutil

import pytest
from factories import in_schema_3

from kvhelpers.commands.rescore import rescore
from kvhelpers.errors import InputError
from kvhelpers.experiment.condition import Condition, make_condition
from kvhelpers.experiment.identity import SCHEMA_VERSION
from kvhelpers.experiment.results import check_same_experiment, find_finished, read_result, result_path
from kvhelpers.paths import results_dir, samples_dir

SAMPLE = "002-compression-sweep"
PRESSES = ("none", "knorm")


@pytest.fixture
def old(output):
    """The conditions of two presses of the committed sample as results of one's own, in schema 2."""
    for press in PRESSES:
        shutil.copytree(samples_dir() / SAMPLE / press, results_dir(SAMPLE) / press)
    paths = sorted(results_dir(SAMPLE).glob("*/*.json"))
    for path in paths:
        path.write_text(json.dumps(in_schema_2(json.loads(path.read_text()))))
    return paths


def in_schema_2(data):
    """A result's JSON as schema 2 had it."""
    data = in_schema_3(data) | {"schema_version": 2}
    return data | {"config": data.pop("condition"), "config_hash": data.pop("condition_hash")}


def asked(path) -> Condition:
    """The condition that an experiment file would ask for."""
    return make_condition(json.loads(path.read_text())["config"] | {"device": "cpu"})


def test_finished_conditions_are_recognized(old):
    for path in old:
        condition = asked(path)
        assert result_path(condition) == path
        assert find_finished(condition) == read_result(path)
    check_same_experiment(asked(old[0]))
    with pytest.raises(InputError, match=r"already holds .* \(seed 42 → 7\)"):
        check_same_experiment(asked(old[0]).model_copy(update={"seed": 7}))


def test_judging_again_changes_no_run_and_writes_the_schema_of_today(old):
    before = [read_result(path) for path in old]
    spoiled = json.loads(old[0].read_text())
    spoiled["summary"]["accuracy"]["count"] = 99
    old[0].write_text(json.dumps(spoiled))
    assert rescore(SAMPLE) == (0, 50 * len(old))
    assert [read_result(path).records for path in old] == [result.records for result in before]
    assert [read_result(path).summary for path in old] == [result.summary for result in before]
    assert json.loads(old[0].read_text())["schema_version"] == SCHEMA_VERSION


def test_a_damaged_record_is_named_by_its_place(old):
    data = json.loads(old[0].read_text())
    data["records"][3]["stop_reason"] = "boredom"
    old[0].write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"is no readable condition result \(records.3.stop_reason: "):
        read_result(old[0])
