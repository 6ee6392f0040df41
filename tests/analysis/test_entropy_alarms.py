"""What a threshold's crossings are worth: spikes before loops warn, spikes after them do not, spikes
everywhere do not.
"""

import numpy as np
import pytest
from factories import make_result

from kvhelpers import frames
from kvhelpers.analysis.analyse import analyse
from kvhelpers.analysis.entropy_alarms import AlarmVerdict, Direction, judge_alarms, most_telling
from kvhelpers.analysis.runs import signal_arrays

N, LENGTH, ONSET = 40, 60, 30


def spiked(*tokens, base=0.5):
    values = np.full(LENGTH, base) + np.linspace(0, 0.01, LENGTH)
    values[list(tokens)] = 3.0
    return values


def conditions_with(looping, healthy):
    """20 looping and 20 healthy runs of a press; ``looping`` and ``healthy`` are their tokens' entropies."""
    onsets = {i: ONSET for i in range(N // 2)}
    entropy = {i: looping if i in onsets else healthy for i in range(N)}
    none = make_result("none", 0.0, [True] * N, entropy={i: spiked() for i in range(N)})
    return [none, make_result("knorm", 0.5, [i not in onsets for i in range(N)], onsets, entropy=entropy)]


def thresholds_of(results, *quantiles):
    return judge_alarms(frames.runs(results), signal_arrays(results, ["entropy"])["entropy"], quantiles)


def alarms_of(results, direction=Direction.HIGH):
    return next(alarms for alarms in thresholds_of(results, 0.99) if alarms.direction == direction)


def test_spikes_after_onsets_do_not_warn():
    results = conditions_with(spiked(35, 40, 50), spiked())
    alarms = alarms_of(results)
    assert (alarms.caught.value, len(alarms.lead), alarms.excess.value) == (0, 0, 0)
    assert alarms.lead_quartiles is None
    verdicts = [alarms.verdict for alarms in analyse(results).alarms.values()]
    assert verdicts == [AlarmVerdict.NO_EVIDENCE] * 2


def test_spikes_before_onsets_warn_with_their_lead():
    alarms = alarms_of(conditions_with(spiked(20, 25), spiked()))
    assert alarms.caught.value == alarms.matched.value == alarms.excess.value == 1
    assert alarms.by_chance.value == 0 and alarms.false_alarms.value == 0
    assert alarms.lead.tolist() == [10] * 20 and alarms.lead_quartiles == (10, 10, 10)
    assert alarms.verdict == AlarmVerdict.WARNS
    assert (alarms.loops, alarms.excess.n, alarms.excess.prompts) == (20, 20, 20)
    assert 0.5 < alarms.excess.low < 0.85 and alarms.excess.high == 1  # 20 of 20 is not certainty


def test_spikes_that_every_run_has_do_not_warn_however_many_loops_they_precede():
    alarms = alarms_of(conditions_with(spiked(20), spiked(20, 21, 40)))
    assert alarms.caught.value == 1 and alarms.by_chance.value == 1 and alarms.excess.value == 0
    assert alarms.false_alarms.value == 1 and alarms.alarms_per_run.value == 2  # 20 and 21 are one alarm
    assert alarms.verdict == AlarmVerdict.NO_EVIDENCE
    assert -0.3 < alarms.excess.low < -0.1 and 0.1 < alarms.excess.high < 0.3


def test_alarms_that_are_rarer_before_loops_are_seen():
    alarms = alarms_of(conditions_with(spiked(), spiked(20)))
    assert alarms.verdict == AlarmVerdict.COMES_LESS_OFTEN and alarms.excess.value == -1


def test_low_entropy_is_judged_by_the_lower_quantile():
    calm = spiked()
    calm[20] = 0.0
    alarms = alarms_of(conditions_with(calm, spiked()), Direction.LOW)
    assert alarms.threshold == pytest.approx(np.quantile(np.tile(spiked()[1:], N), 0.01))
    assert alarms.verdict == AlarmVerdict.WARNS and alarms.lead.tolist() == [10] * 20
    assert alarms_of(conditions_with(calm, spiked())).verdict == AlarmVerdict.NO_EVIDENCE  # nothing high


def test_controls_are_still_going_and_may_loop_later():
    entropy = {0: spiked(5), 1: spiked(5), 2: spiked()[:20], 3: spiked()}
    none = make_result("none", 0.0, [True] * 4, entropy={i: spiked() for i in range(4)})
    looping = make_result("knorm", 0.5, [False, False, True, True], {0: 30, 1: 50}, entropy=entropy)
    alarms = alarms_of([none, looping])
    # at 30, runs 1 (loops later, has crossed) and 3 are at risk; run 2 has ended. At 50 only run 3 is.
    assert alarms.by_chance.value == pytest.approx((0.5 + 0) / 2)
    assert alarms.matched.value == 1 and alarms.excess.n == 2


def test_runs_that_broke_are_no_controls():
    entropy = {0: spiked(5), 1: spiked(5), 2: spiked()}
    none = make_result("none", 0.0, [True] * 3, entropy={i: spiked() for i in range(3)})
    stops = {1: "error"}
    looping = make_result("knorm", 0.5, [False, False, True], {0: 30}, entropy=entropy, stops=stops)
    assert alarms_of([none, looping]).by_chance.value == 0


def test_immediate_loops_and_missing_comparisons_are_told_apart():
    none = make_result("none", 0.0, [True] * 3)
    alarms = alarms_of([none, make_result("knorm", 0.5, [False] * 3, {0: 0, 1: 1, 2: 12})])
    assert (alarms.immediate, alarms.loops) == (2, 1)
    assert alarms.verdict == AlarmVerdict.NOTHING_TO_COMPARE and alarms.excess is None
    quiet = alarms_of([none, make_result("knorm", 0.5, [True] * 3)])
    assert (quiet.immediate, quiet.loops, quiet.caught) == (0, 0, None)
    assert quiet.verdict == AlarmVerdict.NOTHING_TO_COMPARE
    assert (
        thresholds_of([make_result("knorm", 0.5, [False] * 3, {0: 12})], 0.99) == []
    )  # no uncompressed token


def test_a_single_prompt_has_no_interval_and_too_few_prompts_no_verdict():
    none = make_result("none", 0.0, [True])
    single = alarms_of([none, make_result("knorm", 0.5, [False], {0: 12})])
    assert (single.caught.n, single.caught.low) == (1, None)
    two = make_result("none", 0.0, [True] * 2)
    few = alarms_of([two, make_result("knorm", 0.5, [False, True], {0: 12})])
    assert few.excess.low is None and few.verdict == AlarmVerdict.TOO_FEW


def test_healthy_runs_are_compressed_ones_where_there_are_any():
    none = make_result("none", 0.0, [True] * 4)
    assert alarms_of([none, make_result("knorm", 0.5, [True, True, False, False])]).false_alarms.n == 2
    threshold_s_own = alarms_of([none, make_result("knorm", 0.5, [False] * 4, {0: 12})])
    assert threshold_s_own.false_alarms.n == 4 and not threshold_s_own.healthy_compressed


def test_fewer_than_ten_looping_prompts_give_no_verdict():
    for loops, verdict in ((9, AlarmVerdict.TOO_FEW), (10, AlarmVerdict.WARNS)):
        onsets = {i: ONSET for i in range(loops)}
        entropy = {i: spiked(20) if i in onsets else spiked() for i in range(N)}
        none = make_result("none", 0.0, [True] * N, entropy={i: spiked() for i in range(N)})
        looping = make_result("knorm", 0.5, [i not in onsets for i in range(N)], onsets, entropy=entropy)
        assert alarms_of([none, looping]).verdict == verdict


def noisy(seed, loops_are_alike):
    """Spikes of random size and place; ``loops_are_alike`` gives every looping run one before its onset."""
    generator = np.random.default_rng(seed)
    entropy = generator.exponential(size=(N, LENGTH))
    if loops_are_alike:
        entropy[: N // 2, 20] = 20
    onsets = {i: ONSET for i in range(N // 2)}
    rows = dict(enumerate(entropy))
    none = make_result(
        "none", 0.0, [True] * N, entropy=dict(enumerate(generator.exponential(size=(N, LENGTH))))
    )
    return [none, make_result("knorm", 0.5, [i not in onsets for i in range(N)], onsets, entropy=rows)]


def test_trying_more_thresholds_widens_every_interval():
    results = noisy(0, False)
    [alone, _] = thresholds_of(results, 0.99)
    together = thresholds_of(results, 0.9, 0.95, 0.99, 0.995)
    [same] = [a for a in together if (a.direction, a.quantile) == (Direction.HIGH, 0.99)]
    assert (alone.tried, same.tried) == (2, 8)
    assert same.excess.value == alone.excess.value
    assert same.excess.low < alone.excess.low and same.excess.high > alone.excess.high


def test_noise_is_rarely_called_a_warning_whichever_threshold_is_the_most_telling():
    called = 0
    for seed in range(40):
        thresholds = thresholds_of(noisy(seed, False), 0.9, 0.95, 0.99, 0.995)
        called += any(
            alarms.verdict in (AlarmVerdict.WARNS, AlarmVerdict.COMES_LESS_OFTEN) for alarms in thresholds
        )
    assert called <= 6  # 2 expected at 5 %; more than 6 of 40 has a chance below 1 %


def test_the_most_telling_threshold_is_the_one_named():
    results = noisy(1, True)
    thresholds = thresholds_of(results, 0.6, 0.99)
    named = most_telling(thresholds, Direction.HIGH)
    assert (named.quantile, named.verdict) == (0.99, AlarmVerdict.WARNS)
    assert analyse(results, [0.6, 0.99]).alarms[Direction.HIGH].threshold == named.threshold
    assert most_telling([], Direction.HIGH) is None
    few = thresholds_of(
        [make_result("none", 0.0, [True] * 3), make_result("knorm", 0.5, [False] * 3, {0: 12})], 0.9, 0.99
    )
    assert most_telling(few, Direction.LOW).quantile == 0.99  # no interval: the usual one
