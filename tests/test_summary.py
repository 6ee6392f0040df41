import math

import pandas as pd
import pytest

from kvhelpers.summary import most_interesting, summarize, wilson


def record(**changes):
    failures = {"catastrophic": True, "non_termination": False, "looping": False, "wrong_answer": True, "loop_onset": None}
    return {
        "correct": False,
        "failures": failures | changes.pop("failures", {}),
        "n_tokens": 2,
        "prompt_tokens": 10,
        "cache": {"kept_tokens": 5, "cache_bytes": 100},
        "stop_reason": "eos",
        "flags": [],
    } | changes


@pytest.mark.parametrize(("count", "n"), [(0, 20), (1, 20), (20, 20), (7, 13)])
def test_wilson_interval_follows_its_closed_form(count, n):
    z, p = 1.959963984540054, count / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    rate = wilson(count, n)
    assert (rate["low"], rate["high"]) == pytest.approx((max(0, centre - half), min(1, centre + half)), abs=1e-9)


def test_runs_are_averaged_not_tokens():
    records = [record(n_tokens=1), record(n_tokens=3), record(n_tokens=0, stop_reason="error", cache=None)]
    signals = pd.DataFrame({"prompt_index": [0, 1, 1, 1], "entropy": [4.0, 1.0, 2.0, 3.0], "top1_prob": [0.2, 0.9, 0.5, 0.6]})
    summary = summarize(records, signals)
    assert summary["mean_entropy"] == 3 and summary["max_entropy"] == 3.5
    assert summary["min_top1_prob"] == pytest.approx(0.35)
    assert summary["n"] == summary["cfr"]["n"] == 3 and summary["stop_reasons"] == {"eos": 2, "error": 1}


def test_no_tokens_at_all_gives_no_signal_rather_than_nan():
    summary = summarize([record(n_tokens=0, cache=None)], pd.DataFrame({"prompt_index": [], "entropy": [], "top1_prob": []}))
    assert summary["mean_entropy"] is None and summary["kept_tokens"] is None


def test_the_most_interesting_run_loops_late():
    early = record(failures={"looping": True, "loop_onset": 0})
    late = record(failures={"looping": True, "loop_onset": 50})
    long = record(failures={"non_termination": True}, n_tokens=500)
    assert most_interesting([early, long, late]) is late
    assert most_interesting([record(), long]) is long
