"""Files that were changed, or that do not follow from one another, are noticed and named."""

import json
import shutil

import pandas as pd
import pytest
from samples import SAMPLES

from kvhelpers.__main__ import main
from kvhelpers.commands.rescore import rescore
from kvhelpers.commands.verify import verify
from kvhelpers.errors import InputError
from kvhelpers.experiment.grid import finished_results
from kvhelpers.experiment.identity import hash_of
from kvhelpers.experiment.results import read_result, result_paths
from kvhelpers.experiment.seal import sealed
from kvhelpers.models.source import EMBEDDED
from kvhelpers.paths import definition_path, results_dir, samples_dir

SAMPLE = "002-compression-sweep"


@pytest.fixture
def copied(output):
    """Two conditions of a committed sample as results of one's own: the JSON of one, to be edited."""
    for press in ("none", "knorm"):
        shutil.copytree(samples_dir() / SAMPLE / press, results_dir(SAMPLE) / press)
    return next(results_dir(SAMPLE).glob("none/*.json"))


def edit(path, change, seal=False):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(sealed(data, path.with_suffix(".parquet")) if seal else data))


def summary(data):
    data["summary"]["accuracy"]["count"] += 1


def text(data):
    data["records"][3]["text"] += " indeed"


def reference(data):
    data["records"][3]["reference"] = "99"


def kept_tokens(data):
    data["records"][3]["cache"]["kept_tokens"] = 1e6


def dropped(data):
    del data["records"][3]


def duplicated(data):
    data["records"][3] = data["records"][2]


def none_left(data):
    data["records"] = []


def other_data(data):
    data["identity"]["data"] = "x"


def lost_seal(data):
    data["seal"] = None


def label(data):
    data["label"] = "tova 0.5"


def seed(data):
    data["condition"]["seed"] = 1


def zeroed_hash(data):
    data["condition_hash"] = "0" * 64


def flags(data):
    data["records"][3]["flags"] = ["sink_evicted"]


EDITS = {
    summary: ("summary", r"summary.accuracy is .*'count': 47"),
    text: ("records", "text of onestep/42/7 is not what its tokens say"),
    reference: ("records", "answers or failures of some runs are not what today's rules say"),
    kept_tokens: ("records", "prompt onestep/42/7 keeps 1000000.0 of 316 tokens"),
    dropped: ("records", "has not the records of prompts 0 to 49, each once"),
    duplicated: ("records", "has not the records of prompts 0 to 49, each once"),
    none_left: ("records", "has not the records of prompts 0 to 49, each once"),
    label: ("label", "label 'tova 0.5' is not the condition's, 'none'"),
    seed: ("condition", "seed 1 is 42 in the identity"),
    zeroed_hash: ("condition_hash", "condition_hash is not that of the identity"),
    flags: ("records", r"summary.flags is {}, and {'sink_evicted': 1} computed again"),
}


@pytest.mark.parametrize("change", EDITS)
def test_an_edited_result_is_not_believed(copied, change):
    named, _ = EDITS[change]
    edit(copied, change)
    sentence = rf"none/.*json was changed after it was written \({named}\); restore it"
    with pytest.raises(InputError, match=sentence):
        read_result(copied)
    with pytest.raises(InputError, match=sentence):
        rescore(SAMPLE)


@pytest.mark.parametrize("change", EDITS)
def test_an_edited_result_whose_seal_was_renewed_does_not_hold_together(copied, change):
    _, fault = EDITS[change]
    edit(copied, change, seal=True)
    assert pd.Series(verify(SAMPLE).faults).str.contains(fault).any()


def test_signals_of_another_condition_are_not_believed(copied):
    other = next(results_dir(SAMPLE).glob("knorm/*.parquet"))
    shutil.copy(other, copied.with_suffix(".parquet"))
    with pytest.raises(InputError, match="signals file .* was changed after it was written, or belongs"):
        read_result(copied).signals()
    edit(copied, lambda data: None, seal=True)
    faults = " ".join(verify(SAMPLE).faults)
    assert "is not what its tokens say" in faults and "summary.mean_entropy is" in faults


def test_a_result_that_lost_its_seal_is_not_believed(copied):
    edit(copied, lost_seal)
    with pytest.raises(InputError, match="none/.*json has lost its seal; restore it"):
        read_result(copied)


def test_results_of_two_configurations_are_not_mixed(copied):
    edit(copied, other_data, seal=True)
    with pytest.raises(InputError, match=r"is of another configuration than .*none/.* \(data 'x' → "):
        finished_results(SAMPLE)


def test_verify_notices_what_a_log_refuses(copied):
    """A condition of another configuration, sound in itself; a definition that is none."""
    other = next(results_dir(SAMPLE).glob("none/*.json"))
    edit(other, of_another_seed, seal=True)
    assert any("is of another configuration than" in fault for fault in verify(SAMPLE).faults)
    definition_path(SAMPLE).write_text("grid: [")
    assert any("experiment.yaml' is no YAML" in fault for fault in verify(SAMPLE).faults)


def of_another_seed(data):
    data["condition"]["seed"] = data["identity"]["seed"] = 43
    data["condition_hash"] = hash_of(data["identity"])


def test_problems_of_another_seed_are_noticed(copied):
    edit(copied, question, seal=True)
    assert any("prompt 3 is not the task's, onestep/42/7" in fault for fault in verify(SAMPLE).faults)


def question(data):
    data["records"][3]["question"] = "How many?"


def test_a_result_in_the_wrong_place_is_named(copied):
    moved = copied.with_name("smollm2-135m_0_51p.json")
    for suffix in (".json", ".parquet"):
        copied.with_suffix(suffix).rename(moved.with_suffix(suffix))
    (fault,) = verify(SAMPLE).faults
    assert fault.endswith(f"belongs to {SAMPLE}/none/smollm2-135m_0_50p.json; move it and its twin")


@pytest.mark.parametrize("name", SAMPLES)
def test_the_committed_samples_hold_together(name):
    if name == "008-gsm-symbolic":
        pytest.importorskip("reasoning_gym")  # its verifier judges the answers
    done = verify(name, samples_dir())
    assert done.faults == []
    results = finished_results(name, samples_dir())
    assert done.conditions == len(result_paths(name, samples_dir())) == len(results) and done.runs > 0
    # of the others no tokenizer is here, since tests do not look into the user's cache
    elsewhere = sum(result.condition.model not in EMBEDDED for result in results)
    assert (done.unread, done.unasked) == (elsewhere, elsewhere)


def test_the_command_says_what_holds_and_what_does_not(copied, capsys):
    assert main(["verify", SAMPLE]) == 0
    told = capsys.readouterr().out
    assert " runs hold together; " in told
    assert told.endswith(" ran before models were checked against their own passes\n")
    edit(copied, summary)
    assert main(["verify", SAMPLE]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"kvhelpers: error: experiment '{SAMPLE}' does not hold together: ")
    assert main(["verify", "nothing"]) == 2
