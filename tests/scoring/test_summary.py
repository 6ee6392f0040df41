import pandas as pd
import pytest

from kvhelpers.records import Answer, CacheReport, Failures, Record
from kvhelpers.scoring.summary import most_interesting, summarize


def record(looping=False, non_termination=False, onset=None, **changes):
    """A run that answers wrongly."""
    failures = Failures(
        non_termination=non_termination,
        looping=looping,
        wrong_answer=True,
        loop_onset=onset,
        loop_detected=None,
        window_loop=None,
        periodic_loop=None,
    )
    cache = CacheReport(
        prompt_tokens=10, kept_tokens=5, cache_bytes=100, full_bytes=200, sink_kept=1, window=None
    )
    fields = {"prompt_index": 0, "prompt_id": "p/0", "reference": "1", "text": "", "prompt_tokens": 10}
    fields |= {"n_tokens": 2, "stop_reason": "eos", "error": None, "correct": False, "failures": failures}
    fields |= {"answer": Answer(strict=None, flexible=None, decided_by=None), "loop_onset_char": None}
    return Record(**fields | {"cache": cache, "seconds": 1.0} | changes)


def test_runs_are_averaged_not_tokens():
    records = [record(n_tokens=1), record(n_tokens=3), record(n_tokens=0, stop_reason="error", cache=None)]
    signals = pd.DataFrame(
        {"prompt_index": [0, 1, 1, 1], "entropy": [4.0, 1.0, 2.0, 3.0], "top1_prob": [0.2, 0.9, 0.5, 0.6]}
    )
    summary = summarize(records, signals)
    assert summary.mean_entropy == 3 and summary.max_entropy == 3.5
    assert summary.min_top1_prob == pytest.approx(0.35)
    assert summary.n == summary.cfr.n == 3 and summary.stop_reasons == {"eos": 2, "error": 1}


def test_no_tokens_at_all_gives_no_signal_rather_than_nan():
    summary = summarize(
        [record(n_tokens=0, cache=None)], pd.DataFrame({"prompt_index": [], "entropy": [], "top1_prob": []})
    )
    assert summary.mean_entropy is None and summary.kept_tokens is None


def test_the_most_interesting_run_loops_late():
    early = record(looping=True, onset=0)
    late = record(looping=True, onset=50)
    long = record(non_termination=True, n_tokens=500)
    assert most_interesting([early, long, late]) is late
    assert most_interesting([record(), long]) is long
