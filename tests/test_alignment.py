"""Onset alignment agrees with a plain calculation, run by run."""

import numpy as np
import pytest
from made import make_cell

from kvhelpers.alignment import align
from kvhelpers.runs import runs_table, signal_arrays

RNG = np.random.default_rng(5)


def made_cells():
    cells = []
    for press in ("knorm", "tova"):
        entropy = {i: RNG.random(RNG.integers(8, 40)) for i in range(12)}
        onsets = {i: int(RNG.integers(0, len(entropy[i]))) for i in range(5)}
        cells.append(make_cell(press, 0.5, [True] * 12, onsets, entropy=entropy))
    return cells


def plain(cells, offset):
    """Means over looping runs and over the means of their controls."""
    pairs = []
    for cell in cells:
        values = {i: part["entropy"].tolist() for i, part in cell.signals().groupby("prompt_index")}
        for record in cell.records:
            onset = record["failures"]["loop_onset"]
            at = None if onset is None else onset + offset
            if at is None or at < 0 or at >= record["n_tokens"]:
                continue
            others = [
                values[r["prompt_index"]][at] for r in cell.records if not r["failures"]["looping"] and r["n_tokens"] > at
            ]
            if others:
                pairs.append((values[record["prompt_index"]][at], np.mean(others)))
    return len(pairs), *np.mean(pairs, axis=0)


def test_means_are_those_of_a_plain_calculation():
    cells = made_cells()
    table = align(runs_table(cells), signal_arrays(cells, ["entropy"])["entropy"], before=10, after=8)
    assert len(table) > 15
    for row in table.itertuples():
        n, looping, control = plain(cells, row.offset)
        assert row.n == n
        assert (row.looping, row.control, row.difference) == pytest.approx((looping, control, looping - control))
    known = table.dropna()
    assert len(known) > 5 and (known["looping_low"] <= known["looping_high"]).all()


def test_a_difference_that_is_there_is_found_and_its_interval_excludes_zero():
    entropy = {
        i: np.concatenate([np.full(10, 3.0 if i < 10 else 1.0), np.ones(20)]) + RNG.normal(0, 0.05, 30) for i in range(20)
    }
    cells = [make_cell("knorm", 0.5, [True] * 20, {i: 10 for i in range(10)}, entropy=entropy)]
    table = align(runs_table(cells), signal_arrays(cells, ["entropy"])["entropy"]).set_index("offset")
    assert (table.loc[-10:-1, "difference_low"] > 1.9).all()
    assert table.loc[0:, "difference"].abs().max() < 0.1


def test_no_loop_or_no_control_gives_an_empty_table():
    for onsets in ({}, {0: 3, 1: 4}):
        cells = [make_cell("knorm", 0.5, [True] * 2, onsets)]
        assert not len(align(runs_table(cells), signal_arrays(cells, ["entropy"])["entropy"]))
