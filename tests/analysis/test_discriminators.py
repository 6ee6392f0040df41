"""Run-level numbers and their AUROC agree with scipy and scikit-learn."""

import numpy as np
import pytest
from factories import make_result
from scipy.stats import linregress
from sklearn.metrics import roc_auc_score

from kvhelpers import frames
from kvhelpers.analysis.analyse import analyse
from kvhelpers.analysis.discriminators import (
    LENGTH,
    POOLED,
    REMOVED,
    SIGNALS,
    WITHIN,
    Gap,
    best_numbers,
    discriminate,
    run_features,
)
from kvhelpers.analysis.runs import signal_arrays

RNG = np.random.default_rng(11)


def made():
    results = []
    for press, ratio in (("none", 0.0), ("knorm", 0.5), ("tova", 0.5), ("knorm", 0.75)):
        entropy = {i: RNG.random(RNG.integers(5, 40)) for i in range(20)}
        onsets = {} if press == "none" else {i: 2 for i in range(0, 20, 3)}
        results.append(make_result(press, ratio, [i % 4 > 0 for i in range(20)], onsets, entropy=entropy))
    return results


RESULTS = made()
RUNS, ARRAYS = frames.runs(RESULTS), signal_arrays(RESULTS, SIGNALS)


def test_features_are_plain_statistics_of_the_run_s_tokens():
    whole, early = run_features(RUNS, ARRAYS), run_features(RUNS, ARRAYS, first=4)
    row = 0
    for result in RESULTS:
        for _, tokens in result.signals().groupby("prompt_index"):
            for features, part in ((whole.iloc[row], tokens), (early.iloc[row], tokens[:4])):
                values = part["entropy"].to_numpy()
                assert (
                    features["entropy, largest"] == values.max()
                    and features["entropy, smallest"] == values.min()
                )
                assert features["entropy, mean"] == pytest.approx(values.mean())
                assert features["entropy, slope"] == pytest.approx(
                    linregress(range(len(values)), values).slope
                )
                assert features["confident tokens, share"] == pytest.approx((part["top1_prob"] > 0.99).mean())
                assert features[LENGTH] == len(part)
            row += 1


def test_a_run_of_one_token_has_no_slope_and_one_of_none_has_nothing():
    results = [make_result("knorm", 0.5, [True, False], entropy={0: [1.0], 1: []})]
    features = run_features(frames.runs(results), signal_arrays(results, SIGNALS))
    assert np.isnan(features["entropy, slope"]).all() and features["entropy, mean"].tolist()[:1] == [1.0]
    assert np.isnan(features["entropy, mean"][1]) and features[LENGTH].tolist() == [1, 0]


def test_auroc_by_outcome_and_group_is_scikit_learn_s():
    features = run_features(RUNS, ARRAYS)
    table = discriminate(RUNS, features).set_index(["outcome", "among", "feature"])
    for outcome, column in (("looping", "looping"), ("wrong answer", "wrong_answer")):
        for among, rows in ((POOLED, RUNS.index), ("knorm", RUNS.index[RUNS["press"] == "knorm"])):
            row = table.loc[(outcome, among, "entropy, mean")]
            scores = features.loc[rows, "entropy, mean"]
            assert row["auroc"] == pytest.approx(roc_auc_score(RUNS.loc[rows, column], scores))
            assert row["low"] < row["auroc"] < row["high"] and row["n"] == len(rows)
            assert row["positive"] == RUNS.loc[rows, column].sum()
    gap = table.loc[("looping", "none", "entropy, mean")]
    assert np.isnan(gap["auroc"]) and gap["gap"] == Gap.NONE_HAS_IT


def test_within_conditions_the_ratio_tells_nothing():
    results = [
        make_result(press, ratio, [ratio < 0.5] * 12) for press, ratio in (("none", 0.0), ("knorm", 0.9))
    ]
    runs = frames.runs(results)
    table = discriminate(runs, run_features(runs, signal_arrays(results, SIGNALS))).set_index(
        ["outcome", "among", "feature"]
    )
    assert table.loc[("wrong answer", POOLED, REMOVED), "auroc"] == 1
    assert table.loc[("wrong answer", WITHIN, REMOVED), "gap"] == Gap.NO_PAIR


def test_runs_that_broke_say_nothing_about_the_model():
    results = [make_result("knorm", 0.5, [True] * 6 + [False] * 6, stops={11: "error"})]
    runs = frames.runs(results)
    table = discriminate(runs, run_features(runs, signal_arrays(results, SIGNALS)))
    assert set(table["n"]) == {11} and set(table.loc[table["outcome"] == "wrong answer", "positive"]) == {5}


def tables_of(results):
    found = analyse(results)
    return found.discriminators, found.early


def test_gaps_are_named():
    right = [make_result("none", 0.0, [True] * 8), make_result("knorm", 0.5, [True] * 8)]
    for numbers in best_numbers(*tables_of(right)):
        assert numbers.whole.gap == numbers.early.gap == Gap.NONE_HAS_IT and numbers.whole.feature is None
    *_, wrong = best_numbers(*tables_of([make_result("knorm", 0.5, [False] * 8)]))
    assert (wrong.outcome, wrong.whole.gap) == ("wrong answer", Gap.ALL_HAVE_IT)
    *_, one_kind = best_numbers(
        *tables_of([make_result("none", 0.0, [True] * 8), make_result("knorm", 0.5, [False] * 8)])
    )
    assert one_kind.whole.gap == Gap.NO_PAIR
    broken = [make_result("knorm", 0.5, [False] * 8, stops=dict.fromkeys(range(8), "error"))]
    assert {numbers.whole.gap for numbers in best_numbers(*tables_of(broken))} == {Gap.NO_RUN}


def test_the_best_number_is_the_one_furthest_from_a_half_and_no_trivial_one():
    """Wrong runs have high entropy in their first tokens and low entropy later; they are longer too."""
    calm, short = np.linspace(1.0, 0.9, 40), np.linspace(1.0, 0.9, 20)
    calm = calm + np.where(np.arange(40) < 16, 1.0, -0.8)
    entropy = {index: (short if index < 10 else calm) + 0.001 * index for index in range(20)}
    results = [make_result("knorm", 0.5, [True] * 10 + [False] * 10, entropy=entropy)]
    whole, early = tables_of(results)
    numbers = best_numbers(whole, early)[-1]
    assert numbers.outcome == "wrong answer" and numbers.early.gap is None
    assert (numbers.early.feature, numbers.early.auroc.value) == (
        "entropy, largest",
        1,
    )  # the first of equals
    rows = whole[(whole["among"] == WITHIN) & (whole["outcome"] == "wrong answer")].set_index("feature")
    signal = rows.drop(index=[REMOVED, LENGTH])
    assert abs(numbers.whole.auroc.value - 0.5) == (signal["auroc"] - 0.5).abs().max()
    assert numbers.whole.length.value == rows.loc[LENGTH, "auroc"] == 1
