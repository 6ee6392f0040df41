"""Run-level numbers and their AUROC agree with scipy and scikit-learn."""

import numpy as np
import pytest
from made import make_cell
from scipy.stats import linregress
from sklearn.metrics import roc_auc_score

from kvhelpers.analysis import analyse
from kvhelpers.discriminators import LENGTH, POOLED, SIGNALS, WITHIN, discriminate, run_features
from kvhelpers.runs import runs_table, signal_arrays
from kvhelpers.signaltext import discriminator_sentences, discriminator_table

RNG = np.random.default_rng(11)


def made_cells():
    cells = []
    for press, ratio in (("none", 0.0), ("knorm", 0.5), ("tova", 0.5), ("knorm", 0.75)):
        entropy = {i: RNG.random(RNG.integers(5, 40)) for i in range(20)}
        onsets = {} if press == "none" else {i: 2 for i in range(0, 20, 3)}
        cells.append(make_cell(press, ratio, [i % 4 > 0 for i in range(20)], onsets, entropy=entropy))
    return cells


CELLS = made_cells()
RUNS, ARRAYS = runs_table(CELLS), signal_arrays(CELLS, SIGNALS)


def test_features_are_plain_statistics_of_the_run_s_tokens():
    whole, early = run_features(RUNS, ARRAYS), run_features(RUNS, ARRAYS, first=4)
    row = 0
    for cell in CELLS:
        for _, tokens in cell.signals().groupby("prompt_index"):
            for features, part in ((whole.iloc[row], tokens), (early.iloc[row], tokens[:4])):
                values = part["entropy"].to_numpy()
                assert features["entropy, max"] == values.max() and features["entropy, min"] == values.min()
                assert features["entropy, mean"] == pytest.approx(values.mean())
                assert features["entropy, slope"] == pytest.approx(linregress(range(len(values)), values).slope)
                assert features["confident tokens, share"] == pytest.approx((part["top1_prob"] > 0.99).mean())
                assert features[LENGTH] == len(part)
            row += 1


def test_a_run_of_one_token_has_no_slope_and_one_of_none_has_nothing():
    cells = [make_cell("knorm", 0.5, [True, False], entropy={0: [1.0], 1: []})]
    features = run_features(runs_table(cells), signal_arrays(cells, SIGNALS))
    assert np.isnan(features["entropy, slope"]).all() and features["entropy, mean"].tolist()[:1] == [1.0]
    assert np.isnan(features["entropy, mean"][1]) and features[LENGTH].tolist() == [1, 0]


def test_auroc_by_outcome_and_group_is_scikit_learn_s():
    features = run_features(RUNS, ARRAYS)
    table = discriminate(RUNS, features).set_index(["outcome", "among", "feature"])
    for outcome, column in (("looping", "looping"), ("wrong answer", "wrong_answer")):
        for among, rows in ((POOLED, RUNS.index), ("knorm", RUNS.index[RUNS["press"] == "knorm"])):
            found = table.loc[(outcome, among, "entropy, mean")]
            scores = features.loc[rows, "entropy, mean"]
            assert found["auroc"] == pytest.approx(roc_auc_score(RUNS.loc[rows, column], scores))
            assert found["low"] < found["auroc"] < found["high"] and found["n"] == len(rows)
    gap = table.loc[("looping", "none", "entropy, mean")]
    assert np.isnan(gap["auroc"]) and gap["gap"] == "no run has the outcome looping"


def test_within_cells_the_ratio_tells_nothing():
    cells = [make_cell(press, ratio, [ratio < 0.5] * 12) for press, ratio in (("none", 0.0), ("knorm", 0.9))]
    runs = runs_table(cells)
    table = discriminate(runs, run_features(runs, signal_arrays(cells, SIGNALS))).set_index(["outcome", "among", "feature"])
    assert table.loc[("wrong answer", POOLED, "share removed (trivial)"), "auroc"] == 1
    assert table.loc[("wrong answer", WITHIN, "share removed (trivial)"), "gap"] == "no pair to compare"


def test_failed_runs_say_nothing_about_the_model():
    cells = [make_cell("knorm", 0.5, [True] * 6 + [False] * 6, stops={11: "error"})]
    runs = runs_table(cells)
    table = discriminate(runs, run_features(runs, signal_arrays(cells, SIGNALS)))
    assert set(table["n"]) == {11} and set(table.loc[table["outcome"] == "wrong answer", "failed"]) == {5}


def test_tables_and_sentences_name_gaps_and_show_no_nan():
    found = analyse([make_cell("none", 0.0, [True] * 8), make_cell("knorm", 0.5, [True] * 8)])
    told = " ".join(discriminator_sentences(found))
    assert "Looping: of the whole run, none can be told (no run has the outcome looping)" in told
    shown = discriminator_table(found.discriminators)
    assert "nan" not in told + shown.to_string() and set(shown.iloc[:, 1]) == {"–"}
