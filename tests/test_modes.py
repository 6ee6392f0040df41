"""Failure modes exclude each other in their order; the amnesia rule agrees with readers as well as it says."""

import numpy as np
import pandas as pd
import pytest
from made import make_cell

from kvhelpers.modes import AMNESIA, CORRECT, CORRUPTION, FAILED, LOOPING, NON_TERMINATION, failure_mode, is_amnesia
from kvhelpers.paths import REPOSITORY
from kvhelpers.runs import runs_table
from kvhelpers.signaltext import mode_table
from kvhelpers.summary import wilson
from kvhelpers.tables import rate_text
from kvhelpers.tasks import load_problems

LABELS = REPOSITORY / "data/labels/amnesia.csv"
QUESTION = "Tom has 6 coins. Tom finds 4 more coins. How many coins does Tom have in total?"
EXAMPLES = [{"question": "Sam has 7 keys. Sam gets 2 more keys. How many keys does Sam have in total?"}]


def test_the_first_mode_that_applies_counts():
    cell = make_cell(
        "knorm",
        0.5,
        [True, False, True, False, False, True],
        onsets={0: 3},
        text="Eva has 5 coins.",
        stops={1: "error", 2: "max_new_tokens", 3: "max_new_tokens"},
    )
    cell.records[4]["text"] = "The sky is blue."
    modes = [failure_mode(record, cell.data["examples"]) for record in cell.records]
    assert modes == [LOOPING, FAILED, NON_TERMINATION, NON_TERMINATION, AMNESIA, CORRECT]
    cell.records[4]["text"] = "Eva has 9 coins."
    assert failure_mode(cell.records[4], cell.data["examples"]) == CORRUPTION
    assert mode_table(runs_table([cell])).iloc[0].tolist() == ["`knorm 0.5`", 1, 1, 0, 2, 1, 1, 6]


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
    shown = [{"question": example.question} for example in examples]
    found = np.array([is_amnesia(row.question, row.text, shown) for row in labels.itertuples()])
    both = int((labels["amnesia"] & found).sum())
    told = (LABELS.parent / "README.md").read_text()
    assert len(labels) >= 80 and labels["cell"].nunique() >= 5
    assert f"precision {rate(both, sum(found))}, recall {rate(both, int(labels['amnesia'].sum()))}" in " ".join(told.split())


def rate(count, n):
    return f"{count}/{n} = {rate_text(wilson(count, n))}"
