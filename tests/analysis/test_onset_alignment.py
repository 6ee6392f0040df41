"""Onset alignment agrees with a plain calculation, run by run."""

import numpy as np
import pytest
from factories import make_result

from kvhelpers import frames
from kvhelpers.analysis.onset_alignment import OnsetDifference, Stretch, align, onset_differences
from kvhelpers.analysis.runs import signal_arrays

RNG = np.random.default_rng(5)


def made():
    results = []
    for press in ("knorm", "tova"):
        entropy = {i: RNG.random(RNG.integers(8, 40)) for i in range(12)}
        onsets = {i: int(RNG.integers(0, len(entropy[i]))) for i in range(5)}
        results.append(make_result(press, 0.5, [True] * 12, onsets, entropy=entropy))
    return results


def plain(results, offset):
    """Means over looping runs and over the means of their controls."""
    pairs = []
    for result in results:
        values = {i: part["entropy"].tolist() for i, part in result.signals().groupby("prompt_index")}
        for record in result.records:
            onset = record.onset
            at = None if onset is None or onset < 2 else onset + offset
            if at is None or at < 0 or at >= record.n_tokens:
                continue
            others = [
                values[other.prompt_index][at]
                for other in result.records
                if not other.failures.looping and other.n_tokens > at
            ]
            if others:
                pairs.append((values[record.prompt_index][at], np.mean(others)))
    return len(pairs), *np.mean(pairs, axis=0)


def test_means_are_those_of_a_plain_calculation():
    results = made()
    table = align(frames.runs(results), signal_arrays(results, ["entropy"])["entropy"], before=10, after=8)
    assert len(table) > 15
    for row in table.itertuples():
        n, looping, control = plain(results, row.offset)
        assert row.n == n
        assert (row.looping, row.control, row.difference) == pytest.approx(
            (looping, control, looping - control)
        )
    known = table.dropna()
    assert len(known) > 5 and (known["looping_low"] <= known["looping_high"]).all()


def test_loops_that_begin_at_once_are_left_out():
    """They have no tokens before the onset, and would make a jump at it."""
    entropy = {i: np.full(30, 9.0 if i < 4 else 1.0) for i in range(12)}
    onsets = {0: 0, 1: 0, 2: 1, 3: 1, 4: 10, 5: 10}
    results = [make_result("knorm", 0.5, [True] * 12, onsets, entropy=entropy)]
    table = align(frames.runs(results), signal_arrays(results, ["entropy"])["entropy"], before=10, after=8)
    assert set(table["n"]) == {2} and set(table["looping"]) == {1.0}


def test_a_difference_that_is_there_is_seen_and_its_interval_excludes_zero():
    entropy = {
        i: np.concatenate([np.full(10, 3.0 if i < 10 else 1.0), np.ones(20)]) + RNG.normal(0, 0.05, 30)
        for i in range(20)
    }
    results = [make_result("knorm", 0.5, [True] * 20, {i: 10 for i in range(10)}, entropy=entropy)]
    table = align(frames.runs(results), signal_arrays(results, ["entropy"])["entropy"]).set_index("offset")
    assert (table.loc[-10:-1, "difference_low"] > 1.9).all()
    assert table.loc[0:, "difference"].abs().max() < 0.1
    (difference,) = onset_differences({"entropy": table.reset_index()})
    assert difference.before == Stretch(higher=10, lower=0, tokens=10, fewest=10, most=10)
    assert difference.after.tokens == 20 and difference.after.higher + difference.after.lower < 10


def test_no_loop_or_no_control_gives_an_empty_table():
    for onsets in ({}, {0: 3, 1: 4}):
        results = [make_result("knorm", 0.5, [True] * 2, onsets)]
        table = align(frames.runs(results), signal_arrays(results, ["entropy"])["entropy"])
        assert not len(table)
        assert onset_differences({"entropy": table}) == [OnsetDifference("entropy", False, None, None)]


def test_few_looping_runs_give_no_stretch():
    results = [make_result("knorm", 0.5, [True] * 8, {index: 5 for index in range(4)})]
    table = align(frames.runs(results), signal_arrays(results, ["entropy"])["entropy"])
    (difference,) = onset_differences({"entropy": table})
    assert difference.compared and difference.before is difference.after is None
