"""Failure modes exclude each other in their order; the amnesia rule agrees with readers as it says."""

import numpy as np
import pandas as pd
import pytest
from factories import make_result
from sklearn.metrics import cohen_kappa_score

from kvhelpers.experiment.results import read_experiment
from kvhelpers.format import rate
from kvhelpers.paths import REPOSITORY, labels_dir, samples_dir
from kvhelpers.records import FailureMode
from kvhelpers.scoring.failure_modes import failure_mode, is_amnesia
from kvhelpers.stats import wilson
from kvhelpers.tasks.load import load_problems

LABELS = REPOSITORY / "data/labels/amnesia.csv"
QUESTION = "Tom has 6 coins. Tom finds 4 more coins. How many coins does Tom have in total?"
EXAMPLES = ["Sam has 7 keys. Sam gets 2 more keys. How many keys does Sam have in total?"]


def test_the_first_mode_that_applies_counts():
    result = make_result(
        "knorm",
        0.5,
        [True, False, True, False, False, True],
        onsets={0: 3},
        text="Eva has 5 coins.",
        stops={1: "error", 2: "max_new_tokens", 3: "max_new_tokens"},
    )
    another = result.records[4].model_copy(update={"text": "The sky is blue."})
    wrong = result.records[4].model_copy(update={"text": "Eva has 9 coins."})
    records = [*result.records[:4], another, wrong, result.records[5]]
    assert [failure_mode(record, result.examples) for record in records] == [
        FailureMode.LOOPING,
        FailureMode.ERRORED,
        FailureMode.NON_TERMINATION,
        FailureMode.NON_TERMINATION,
        FailureMode.AMNESIA,
        FailureMode.CORRUPTION,
        FailureMode.CORRECT,
    ]


def test_a_loop_that_was_left_for_the_right_answer_is_no_mode_of_failure():
    record = make_result("knorm", 0.5, [True], onsets={0: 3}).records[0]
    failures = record.failures.model_copy(update={"loop_left": True, "non_termination": False})
    ended = record.model_copy(update={"failures": failures, "stop_reason": "eos"})
    assert failure_mode(ended, ()) == FailureMode.CORRECT
    looped = ended.model_copy(update={"failures": failures.model_copy(update={"loop_left": False})})
    assert failure_mode(looped, ()) == FailureMode.LOOPING


def test_a_record_without_its_question_carries_its_mode():
    record = make_result("knorm", 0.5, [False]).records[0]
    carried = record.model_copy(update={"question": None, "mode": FailureMode.AMNESIA})
    assert failure_mode(carried, ()) == FailureMode.AMNESIA


@pytest.mark.parametrize(
    ("text", "amnesia"),
    [
        ("Tom has 6 + 4 = 11 coins.", False),
        ("Tom has 6 coins.", False),
        ("Tom finds 9 coins.", False),
        ("Tom has 20 feet of rope.", True),
        ("Sam has 7 + 2 = 9 keys.", True),
        ("Tom has 7 keys. Tom gets 2 keys.", True),
        ("Euclid's infinite.", True),
        ("", True),
    ],
)
def test_the_rule_by_example(text, amnesia):
    assert is_amnesia(QUESTION, text, EXAMPLES) is amnesia


def test_the_rule_agrees_with_readers_as_the_data_s_readme_says():
    labels = pd.read_csv(LABELS, keep_default_na=False)
    _, examples = load_problems("onestep", 24, 4, 43)
    shown = [example.question for example in examples]
    by_rule = np.array([is_amnesia(row.question, row.text, shown) for row in labels.itertuples()])
    both = int((labels["amnesia"] & by_rule).sum())
    readme = (LABELS.parent / "README.md").read_text()
    assert len(labels) >= 80 and labels["condition"].nunique() >= 5
    assert (
        f"precision {share(both, sum(by_rule))}, recall {share(both, int(labels['amnesia'].sum()))}"
        in " ".join(readme.split())
    )


def share(count, n):
    return f"{count}/{n} = {rate(wilson(count, n))}"


def test_the_rule_agrees_with_two_blind_readings_as_the_labels_readme_says():
    labels = pd.read_csv(labels_dir() / "blind-gsm8k.csv")
    assert cohen_kappa_score(labels["reader_a"], labels["reader_b"]) == pytest.approx(0.99, abs=0.005)
    agreed = labels[labels["reader_a"] == labels["reader_b"]]
    right = ((agreed["rule"] == "yes") & (agreed["reader_a"] == "yes")).sum()
    named, amnesia = (agreed["rule"] == "yes").sum(), (agreed["reader_a"] == "yes").sum()
    assert (len(labels), len(agreed), right, named, amnesia) == (210, 209, 52, 60, 56)
    readme = (labels_dir() / "README.md").read_text(encoding="utf-8")
    for count, n in ((right, named), (right, amnesia)):
        assert f"{count}/{n} = {rate(wilson(count, n))}" in readme


@pytest.mark.parametrize("experiment", ("006-capable-model", "007-question-position"))
def test_blind_labels_are_of_committed_runs_and_name_the_rule_s_word(experiment):
    """The rule needs the question, which is not committed: a sample's record carries its mode."""
    modes = {
        (result.label, record.prompt_id): record.mode
        for result in read_experiment(experiment, samples_dir())
        for record in result.records
    }
    labels = pd.read_csv(labels_dir() / "blind-gsm8k.csv")
    labels = labels[labels["experiment"] == experiment]
    assert len(labels) >= 60
    for row in labels.itertuples():
        assert (modes[row.condition, row.prompt] == FailureMode.AMNESIA) == (row.rule == "yes")
