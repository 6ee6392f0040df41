"""Two runs of the same condition must say the same: tokens and outcomes exactly, signals to 1e-4; times,
batch sizes and provenance aside. A study's log must have its script's tables.
"""

import pandas as pd
import pytest

from kvhelpers.log import with_tables
from kvhelpers.paths import REPOSITORY

SIGNALS = ("mean_entropy", "max_entropy", "min_top1_prob")
MAKING = dict.fromkeys(("seconds", "finished", "provenance"))
OF_RUN = {"seconds": 0.0, "wall_seconds": None, "batch_size": None, "drafting": None}


def shared(result, experiment):
    """What two runs of a result's condition have in common, as if both were of this experiment."""
    data = result.model_dump() | MAKING
    data["records"] = [record.model_dump() | OF_RUN for record in result.records]
    data["condition"] |= {"experiment": experiment, "batch_size": "auto"}
    data["summary"] |= dict.fromkeys(SIGNALS)
    return data


def assert_same(first, second):
    """Both are results of one condition, in whatever experiment."""
    assert shared(first, "x") == shared(second, "x")
    for name in SIGNALS:
        assert getattr(first.summary, name) == pytest.approx(getattr(second.summary, name), abs=1e-4)
    signals = [result.signals().assign(experiment="x") for result in (first, second)]
    pd.testing.assert_frame_equal(*signals, rtol=0, atol=1e-4)


def assert_log_has(tables, name, column):
    """A committed log has these tables, and would not have others; ``column`` is one of the first's."""
    text = (REPOSITORY / "experiments" / f"{name}.md").read_text()
    assert with_tables(text, tables) == text
    tables[0].loc[0, column] = "1 %"
    assert with_tables(text, tables) != text
