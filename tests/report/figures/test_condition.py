import numpy as np
from factories import make_result

from kvhelpers.report import figures


def test_a_run_is_shown_around_its_onset():
    entropy = {0: np.linspace(1, 2, 120), 1: np.linspace(1, 2, 50), 2: []}
    result = make_result("knorm", 0.5, [False] * 3, {0: 60}, text="a $b", entropy=entropy)
    axes = figures.token_trace(result, result.records[0]).axes[1]
    assert axes.get_xlabel() == "new tokens 28 to 92, as generated"
    assert (
        figures.token_trace(result, result.records[1]).axes[1].get_xlabel().startswith("new tokens 0 to 49")
    )
    names = [
        label.get_text() for label in figures.token_trace(result, result.records[1]).axes[1].get_xticklabels()
    ]
    assert names[:5] == ["a", "·", r"\$", "b", "∅"]
    assert figures.token_trace(result, result.records[2]) is None
