"""Spikes before loops warn, spikes after them do not, spikes everywhere do not; alignment and the numbers of
runs agree with plain calculations, scipy and scikit-learn.
"""

import numpy as np
import pytest
from factories import make_result
from scipy.stats import linregress
from sklearn.metrics import roc_auc_score

from kvhelpers import frames, signals
from kvhelpers.errors import InputError

N, LENGTH, ONSET = 40, 60, 30


def tables(results):
    return frames.runs(results), frames.tokens(results, signals.SIGNALS)


def wide(results):
    runs, tokens = tables(results)
    return runs, signals.wide(runs, tokens, "entropy")


def spiked(*tokens, base=0.5):
    values = np.full(LENGTH, base) + np.linspace(0, 0.01, LENGTH)
    values[list(tokens)] = 3.0
    return values


def conditions_with(looping, healthy, loops=N // 2):
    """Looping and healthy runs of a press; ``looping`` and ``healthy`` are their tokens' entropies."""
    onsets = {i: ONSET for i in range(loops)}
    entropy = {i: looping if i in onsets else healthy for i in range(N)}
    none = make_result("none", 0.0, [True] * N, entropy={i: spiked() for i in range(N)})
    return [none, make_result("knorm", 0.5, [i not in onsets for i in range(N)], onsets, entropy=entropy)]


def alarms_of(results, *quantiles, side="high", **given):
    """The rows of the first threshold by metric."""
    table = signals.alarms(*wide(results), list(quantiles) or [0.99], **given)
    first = (quantiles or (0.99,))[0]
    name = f"{side} {first if side == 'high' else 1 - first:g}".replace("0.", ".")
    return table[table["subject"].isin([name, "all"])].set_index("metric")


def values(table, *metrics):
    return table.loc[list(metrics), "estimate"].tolist()


def test_spikes_after_onsets_do_not_warn():
    table = alarms_of(conditions_with(spiked(35, 40, 50), spiked()))
    assert values(table, "caught", "excess") == [0, 0] and "lead" not in table.index
    assert table.loc["excess", "verdict"] == "undecided"


def test_spikes_before_onsets_warn_with_their_lead():
    table = alarms_of(conditions_with(spiked(20, 25), spiked()))
    assert values(table, "caught", "matched", "by chance", "excess", "false alarms") == [1, 1, 0, 1, 0]
    assert values(table, "lead", "loops", "immediate") == [10, 20, 0]
    assert table.loc["excess", ["n", "prompts", "verdict"]].tolist() == [20, 20, "higher"]
    assert (
        0.5 < table.loc["excess", "low"] < 0.85 and table.loc["excess", "high"] == 1
    )  # 20 of 20 is not certain


def test_only_the_last_tokens_before_the_onset_count_where_that_is_asked():
    early, late = (conditions_with(spiked(at), spiked()) for at in (19, 20))
    assert values(alarms_of(early, last=10), "matched") == [0] and values(
        alarms_of(late, last=10), "matched"
    ) == [1]
    both = alarms_of(conditions_with(spiked(5, 25), spiked(5)), last=10)
    assert values(both, "matched", "by chance", "excess") == [1, 0, 1]
    assert values(alarms_of(conditions_with(spiked(5, 25), spiked(5))), "by chance") == [1]


def test_spikes_that_every_run_has_do_not_warn_however_many_loops_they_precede():
    table = alarms_of(conditions_with(spiked(20), spiked(20, 21, 40)))
    assert values(table, "caught", "by chance", "excess", "false alarms") == [1, 1, 0, 1]
    assert values(table, "alarms per run") == [2]  # 20 and 21 are one alarm
    assert -0.3 < table.loc["excess", "low"] < -0.1 and table.loc["excess", "verdict"] == "undecided"


def test_alarms_that_are_rarer_before_loops_are_seen():
    table = alarms_of(conditions_with(spiked(), spiked(20)))
    assert table.loc["excess", ["estimate", "verdict"]].tolist() == [-1, "lower"]


def test_low_entropy_is_judged_by_the_lower_quantile():
    calm = spiked()
    calm[20] = 0.0
    table = alarms_of(conditions_with(calm, spiked()), side="low")
    assert values(table, "threshold") == pytest.approx([np.quantile(np.tile(spiked()[1:], N), 0.01)])
    assert table.loc["excess", "verdict"] == "higher" and values(table, "lead") == [10]
    assert alarms_of(conditions_with(calm, spiked())).loc["excess", "verdict"] == "undecided"  # nothing high


def test_controls_are_still_going_and_may_loop_later():
    entropy = {0: spiked(5), 1: spiked(5), 2: spiked()[:20], 3: spiked()}
    none = make_result("none", 0.0, [True] * 4, entropy={i: spiked() for i in range(4)})
    looping = make_result("knorm", 0.5, [False, False, True, True], {0: 30, 1: 50}, entropy=entropy)
    table = alarms_of([none, looping])
    # at 30, runs 1 (loops later, has crossed) and 3 are at risk; run 2 has ended. At 50 only run 3 is.
    assert values(table, "by chance", "matched") == [pytest.approx((0.5 + 0) / 2), 1]


def test_runs_that_broke_are_no_controls():
    entropy = {0: spiked(5), 1: spiked(5), 2: spiked()}
    none = make_result("none", 0.0, [True] * 3, entropy={i: spiked() for i in range(3)})
    stops = {1: "error"}
    looping = make_result("knorm", 0.5, [False, False, True], {0: 30}, entropy=entropy, stops=stops)
    assert values(alarms_of([none, looping]), "by chance") == [0]


def test_immediate_loops_and_missing_comparisons_are_told_apart():
    none = make_result("none", 0.0, [True] * 3)
    table = alarms_of([none, make_result("knorm", 0.5, [False] * 3, {0: 0, 1: 1, 2: 12})])
    assert values(table, "immediate", "loops") == [2, 1] and np.isnan(table.loc["excess", "estimate"])
    quiet = alarms_of([none, make_result("knorm", 0.5, [True] * 3)])
    assert values(quiet, "immediate", "loops") == [0, 0] and np.isnan(quiet.loc["caught", "estimate"])
    assert not len(signals.alarms(*wide([make_result("knorm", 0.5, [False] * 3, {0: 12})])))


@pytest.mark.parametrize(("loops", "verdict"), [(9, "undecided"), (10, "higher")])
def test_fewer_than_ten_looping_prompts_give_no_verdict(loops, verdict):
    table = alarms_of(conditions_with(spiked(20), spiked(), loops))
    assert table.loc["excess", "verdict"] == verdict and np.isnan(table.loc["excess", "low"]) == (loops < 10)


def test_healthy_runs_are_compressed_ones_where_there_are_any():
    none = make_result("none", 0.0, [True] * 4)
    assert (
        alarms_of([none, make_result("knorm", 0.5, [True, True, False, False])]).loc["false alarms", "n"] == 2
    )
    assert alarms_of([none, make_result("knorm", 0.5, [False] * 4, {0: 12})]).loc["false alarms", "n"] == 4


def noisy(seed):
    """Spikes of random size and place."""
    plain, entropy = np.random.default_rng(seed).exponential(size=(2, N, LENGTH))
    onsets = {i: ONSET for i in range(N // 2)}
    right = [i not in onsets for i in range(N)]
    none = make_result("none", 0.0, [True] * N, entropy=dict(enumerate(plain)))
    return [none, make_result("knorm", 0.5, right, onsets, entropy=dict(enumerate(entropy)))]


def test_trying_more_thresholds_widens_every_interval():
    alone, together = (
        alarms_of(noisy(0), 0.99, *others).loc["excess"] for others in ((), (0.9, 0.95, 0.995))
    )
    assert alone["estimate"] == together["estimate"]
    assert together["low"] < alone["low"] and together["high"] > alone["high"]


def test_noise_is_rarely_called_a_warning_whichever_threshold_is_looked_at():
    tables = (signals.alarms(*wide(noisy(seed))) for seed in range(40))
    called = sum(table["verdict"].isin(["higher", "lower"]).any() for table in tables)
    assert called <= 6  # 2 expected at 5 %; more than 6 of 40 has a chance below 1 %


@pytest.mark.parametrize("quantiles", [1.5, [], [0.4], [1]])
def test_quantiles_that_are_none_are_refused(quantiles):
    with pytest.raises(InputError, match="quantiles .* is not allowed; it is a list of shares"):
        signals.alarms(*wide(noisy(0)), quantiles)


def plain_means(results, offset):
    """Means over looping runs and over the means of their controls."""
    pairs = []
    for result in results:
        entropy = {i: part["entropy"].tolist() for i, part in result.signals().groupby("prompt_index")}
        for record in result.records:
            at = None if record.onset is None or record.onset < 2 else record.onset + offset
            if at is None or at < 0 or at >= record.n_tokens:
                continue
            others = [
                entropy[other.prompt_index][at]
                for other in result.records
                if not other.failures.looping and other.n_tokens > at
            ]
            if others:
                pairs.append((entropy[record.prompt_index][at], np.mean(others)))
    return len(pairs), *np.mean(pairs, axis=0)


def test_means_around_the_onset_are_those_of_a_plain_calculation():
    draw, results = np.random.default_rng(5), []
    for press in ("knorm", "tova"):
        entropy = {i: draw.random(draw.integers(8, 40)) for i in range(12)}
        onsets = {i: int(draw.integers(0, len(entropy[i]))) for i in range(5)}
        results.append(make_result(press, 0.5, [True] * 12, onsets, entropy=entropy))
    table = signals.aligned(*wide(results), before=10, after=8)
    assert len(table) > 15
    for row in table.itertuples():
        n, looping, control = plain_means(results, row.offset)
        assert row.n == n
        assert (row.looping, row.control, row.difference) == pytest.approx(
            (looping, control, looping - control)
        )
    known = table.dropna()
    assert len(known) > 5 and (known["looping_low"] <= known["looping_high"]).all()


def test_loops_that_begin_at_once_are_left_out_of_the_alignment():
    entropy = {i: np.full(30, 9.0 if i < 4 else 1.0) for i in range(12)}
    onsets = {0: 0, 1: 0, 2: 1, 3: 1, 4: 10, 5: 10}
    table = signals.aligned(*wide([make_result("knorm", 0.5, [True] * 12, onsets, entropy=entropy)]), 10, 8)
    assert set(table["n"]) == {2} and set(table["looping"]) == {1.0}


def test_a_difference_that_is_there_is_seen_and_its_interval_excludes_zero():
    draw = np.random.default_rng(5)
    entropy = {
        i: np.concatenate([np.full(10, 3.0 if i < 10 else 1.0), np.ones(20)]) + draw.normal(0, 0.05, 30)
        for i in range(20)
    }
    looping = make_result("knorm", 0.5, [True] * 20, {i: 10 for i in range(10)}, entropy=entropy)
    table = signals.aligned(*wide([looping])).set_index("offset")
    assert (table.loc[-10:-1, "difference_low"] > 1.9).all()
    assert table.loc[0:, "difference"].abs().max() < 0.1


@pytest.mark.parametrize("onsets", [{}, {0: 3, 1: 4}])
def test_no_loop_or_no_control_gives_an_empty_alignment(onsets):
    assert not len(signals.aligned(*wide([make_result("knorm", 0.5, [True] * 2, onsets)])))


def sweep():
    draw, results = np.random.default_rng(11), []
    for press, ratio in (("none", 0.0), ("knorm", 0.5), ("tova", 0.5), ("knorm", 0.75)):
        entropy = {i: draw.random(draw.integers(5, 40)) for i in range(20)}
        onsets = {} if press == "none" else {i: 2 for i in range(0, 20, 3)}
        results.append(make_result(press, ratio, [i % 4 > 0 for i in range(20)], onsets, entropy=entropy))
    return results


def test_numbers_are_plain_statistics_of_the_run_s_tokens():
    runs, tokens = tables(sweep())
    whole, early = signals.numbers(runs, tokens), signals.numbers(runs, tokens, first=4)
    for place, (_, part) in enumerate(tokens.groupby("run", sort=False)):
        for made, own in ((whole.iloc[place], part), (early.iloc[place], part[:4])):
            entropy = own["entropy"].to_numpy()
            assert made["entropy, largest"] == entropy.max() and made["entropy, smallest"] == entropy.min()
            assert made["entropy, mean"] == pytest.approx(entropy.mean())
            assert made["entropy, slope"] == pytest.approx(linregress(range(len(entropy)), entropy).slope)
            assert made["confident tokens, share"] == pytest.approx((own["top1_prob"] > 0.99).mean())
            assert made[signals.LENGTH] == len(own)


def test_a_run_of_one_token_has_no_slope_and_one_of_none_has_nothing():
    made = signals.numbers(*tables([make_result("knorm", 0.5, [True, False], entropy={0: [1.0], 1: []})]))
    assert np.isnan(made["entropy, slope"]).all() and made["entropy, mean"].tolist()[:1] == [1.0]
    assert np.isnan(made["entropy, mean"][1]) and made[signals.LENGTH].tolist() == [1, 0]


def test_auroc_within_a_condition_is_scikit_learn_s():
    runs, tokens = tables(sweep()[:2])
    told = signals.numbers(runs, tokens)
    table = signals.separation(runs, told, "q").set_index("subject")
    own = runs["condition"] == "knorm 0.5"  # the other one has no loop, and so no pair
    row = table.loc["looping: entropy, mean"]
    assert row["estimate"] == pytest.approx(roc_auc_score(runs[own]["looping"], told[own]["entropy, mean"]))
    assert row["low"] < row["estimate"] < row["high"] and row["n"] == 40


def test_within_conditions_the_share_removed_tells_nothing():
    results = [make_result(press, r, [r < 0.5] * 12) for press, r in (("none", 0.0), ("knorm", 0.9))]
    runs, tokens = tables(results)
    table = signals.separation(runs, signals.numbers(runs, tokens), "q").set_index("subject")
    assert np.isnan(table.loc[f"wrong_answer: {signals.REMOVED}", "estimate"])


def test_runs_that_broke_say_nothing_about_the_model():
    runs, tokens = tables([make_result("knorm", 0.5, [True] * 6 + [False] * 6, stops={11: "error"})])
    table = signals.separation(runs, signals.numbers(runs, tokens), "q").dropna(subset="estimate")
    assert len(table) and set(table["n"]) == {11}
