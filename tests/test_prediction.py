"""What a threshold's crossings are worth: spikes before loops warn, spikes after them do not, spikes everywhere do not."""

import numpy as np
import pytest
from made import make_cell

from kvhelpers.analysis import analyse
from kvhelpers.prediction import HIGH, LOW, warnings
from kvhelpers.runs import runs_table, signal_arrays
from kvhelpers.signaltext import warning_sentences

N, LENGTH, ONSET = 40, 60, 30


def spiked(*tokens, base=0.5):
    values = np.full(LENGTH, base) + np.linspace(0, 0.01, LENGTH)
    values[list(tokens)] = 3.0
    return values


def cells_with(looping, healthy):
    """20 looping and 20 healthy runs of a press; ``looping`` and ``healthy`` are their tokens' entropies."""
    onsets = {i: ONSET for i in range(N // 2)}
    entropy = {i: looping if i in onsets else healthy for i in range(N)}
    bare = make_cell("none", 0.0, [True] * N, entropy={i: spiked() for i in range(N)})
    return [bare, make_cell("knorm", 0.5, [i not in onsets for i in range(N)], onsets, entropy=entropy)]


def judged(cells, direction=HIGH, quantile=0.99):
    return warnings(runs_table(cells), signal_arrays(cells, ["entropy"])["entropy"], direction, quantile)


def test_spikes_after_onsets_do_not_warn():
    cells = cells_with(spiked(35, 40, 50), spiked())
    w = judged(cells)
    assert (w.caught.value, len(w.lead), w.excess.value) == (0, 0, 0)
    (high, low) = warning_sentences(analyse(cells))
    for told in (high, low):
        assert "it does not warn of loops" in told and "it warns of loops" not in told


def test_spikes_before_onsets_warn_with_their_lead():
    cells = cells_with(spiked(20, 25), spiked())
    w = judged(cells)
    assert w.caught.value == w.matched.value == w.excess.value == 1 and w.by_chance.value == 0
    assert w.lead.tolist() == [10] * 20 and w.false_alarms.value == 0
    told = warning_sentences(analyse(cells))[0]
    assert "**it warns of loops**" in told and "first 10 tokens before it" in told and "20 looping runs of 20 prompts" in told


def test_spikes_that_every_run_has_do_not_warn_however_many_loops_they_precede():
    w = judged(cells_with(spiked(20), spiked(20, 21, 40)))
    assert w.caught.value == 1 and w.by_chance.value == 1 and w.excess.value == 0
    assert w.false_alarms.value == 1 and w.alarms_per_run.value == 2  # 20 and 21 are one alarm
    assert "it does not warn of loops" in warning_sentences(analyse(cells_with(spiked(20), spiked(20, 21, 40))))[0]


def test_rarer_before_loops_is_said():
    told = warning_sentences(analyse(cells_with(spiked(), spiked(20))))[0]
    assert "**it does not warn of loops**; it comes less often before them" in told


def test_low_entropy_is_judged_by_the_lower_quantile():
    calm = spiked()
    calm[20] = 0.0
    w = judged(cells_with(calm, spiked()), LOW)
    assert w.threshold == pytest.approx(np.quantile(np.tile(spiked()[1:], N), 0.01)) and w.excess.value == 1
    assert w.lead.tolist() == [10] * 20


def test_controls_are_still_going_and_may_loop_later():
    entropy = {0: spiked(5), 1: spiked(5), 2: spiked()[:20], 3: spiked()}
    bare = make_cell("none", 0.0, [True] * 4, entropy={i: spiked() for i in range(4)})
    cells = [bare, make_cell("knorm", 0.5, [False, False, True, True], {0: 30, 1: 50}, entropy=entropy)]
    w = judged(cells)
    # at 30, runs 1 (loops later, has crossed) and 3 are at risk; run 2 has ended. At 50 only run 3 is.
    assert w.by_chance.value == pytest.approx((0.5 + 0) / 2) and w.matched.value == 1 and w.excess.n == 2


def test_immediate_loops_and_missing_comparisons_are_named():
    cells = [make_cell("none", 0.0, [True] * 3), make_cell("knorm", 0.5, [False] * 3, {0: 0, 1: 1, 2: 12})]
    told = warning_sentences(analyse(cells))
    assert told[0].startswith("2 looping runs begin to loop at token 0 or 1")
    assert "**no verdict**" in told[1]
    nothing = warning_sentences(analyse([make_cell("none", 0.0, [True] * 3), make_cell("knorm", 0.5, [True] * 3)]))
    assert nothing == ["No run loops later than that, so nothing can be said about prediction."]
    assert warning_sentences(analyse([make_cell("knorm", 0.5, [False] * 3, {0: 12})]))[0].startswith("No uncompressed run")


def test_a_single_prompt_has_no_interval_and_no_verdict():
    cells = [make_cell("none", 0.0, [True]), make_cell("knorm", 0.5, [False], {0: 12})]
    assert "of 1 looping runs" in warning_sentences(analyse(cells))[0]
    assert "[no interval]" in warning_sentences(analyse(cells))[0]
