"""The study finds what is there, nothing where nothing is, and its log says so."""

import dataclasses

import numpy as np
import pytest
from made import make_cell
from made_risk import make_risk

from kvhelpers import hazardlog, hazardtext, riskset
from kvhelpers.bootstrap import Estimate
from kvhelpers.errors import InputError
from kvhelpers.folds import learner, out_of_fold
from kvhelpers.hazard import AVERAGE, LOGISTIC
from kvhelpers.hazardstudy import judged, shuffle_outcomes, study
from kvhelpers.predictors import CUSUM, MAIN, PROPOSED, family_names, with_cusum


@pytest.fixture(scope="module")
def found():
    return study(make_risk(10), folds=2, progress=False)


def test_what_is_there_is_found(found):
    entropy, best = found.methods["entropy"].auroc, found.methods[PROPOSED].auroc
    assert entropy.value > 0.9 and best.value > 0.85
    assert found.methods["base rate"].auroc.value == 0.5
    assert set(found.elsewhere) >= {"presses never seen, all", "press never seen: knorm", "task never seen: task0"}
    assert list(found.by_horizon) == [1, 5, 10, 32, 50]
    assert found.coefficients["feature"][0] == "entropy" and found.coefficients["low"][0] > 0


def test_shuffled_outcomes_leave_nothing(found):
    values = []
    for seed in range(6):  # one shuffle may miss 0.5 by chance
        shuffled = shuffle_outcomes(make_risk(24), seed)
        scores = out_of_fold(shuffled, learner(10, family_names("signals"), LOGISTIC), 3)
        values.append(judged(shuffled, scores, 10, 3).auroc_same_token.value)
    assert abs(np.mean(values) - 0.5) < 0.04
    holding = dataclasses.replace(found, control=[found.methods["base rate"]] * 3)
    assert "holds 0.5, as it must" in hazardtext.control_sentence(holding)
    leaking = dataclasses.replace(found, control=[found.methods["entropy"]] * 3)
    assert "does not hold 0.5" in hazardtext.control_sentence(leaking)


def test_where_nothing_is_known_nothing_is_found():
    risk = make_risk(10, known=False)
    one = judged(risk, out_of_fold(risk, learner(10, family_names(*MAIN), AVERAGE), 2), 10, 2).auroc_same_token
    assert one.low <= 0.5 <= one.high


def test_sentences_turn_with_the_numbers(found):
    high, low = found.methods["entropy"], found.control[0]
    gain = Estimate(0.2, 0.1, 0.3, 100, 10)
    up = dataclasses.replace(found, methods={**found.methods, PROPOSED: high}, above=dict.fromkeys(found.above, gain))
    down = dataclasses.replace(found, methods={**found.methods, PROPOSED: low})
    unclear = dataclasses.replace(found, above=dict.fromkeys(found.above, dataclasses.replace(gain, low=-0.1)))
    below = dataclasses.replace(found, above=dict.fromkeys(found.above, Estimate(-0.2, -0.3, -0.1, 100, 10)))
    assert f"{PROPOSED}: AUROC {high.auroc.text()} reaches the target of 0.88" in hazardtext.target_sentences(up)[0]
    assert "falls short of the target of 0.88" in hazardtext.target_sentences(down)[0]
    assert "is above the best baseline" in hazardtext.comparison_sentences(up)[0]
    assert "is not distinguishable from the best baseline" in hazardtext.comparison_sentences(unclear)[0]
    assert "is below the best baseline" in hazardtext.comparison_sentences(below)[0]


def test_a_missed_target_is_explained_and_a_reached_one_is_not(found):
    low, high = found.methods["base rate"], found.methods["entropy"]
    never = "presses never seen, all"
    both = dataclasses.replace(found, methods={**found.methods, PROPOSED: high}, elsewhere={**found.elsewhere, never: high})
    assert hazardtext.shortfall_sentences(both) == []
    missed = dataclasses.replace(found, elsewhere={**found.elsewhere, never: low})
    told = " ".join(hazardtext.shortfall_sentences(missed))
    for part in (
        "Features: the logistic hazard",
        "Data: from 25 % to all",
        "Presses, none of them seen: worst",
        "Time: failures begin at token",
    ):
        assert part in told
    assert "from 0.50" in " ".join(hazardtext.shortfall_sentences(dataclasses.replace(missed, learning={0.25: low})))


def test_runs_caught_are_compared_by_their_intervals(found):
    def told(caught):
        best = dataclasses.replace(found.warnings["entropy"][0], caught=Estimate(0.4, 0.3, 0.5, 100, 10))
        own = dataclasses.replace(best, caught=caught)
        return hazardtext.comparison_sentences(dataclasses.replace(found, warnings={PROPOSED: [own], "entropy": [best]}))[1]

    assert "more than the best baseline, entropy" in told(Estimate(0.7, 0.6, 0.8, 100, 10))
    assert "fewer than the best baseline" in told(Estimate(0.1, 0.05, 0.2, 100, 10))
    assert "not clearly more or fewer than the best baseline" in told(Estimate(0.45, 0.35, 0.55, 100, 10))


def test_shuffling_moves_whole_outcomes():
    risk = make_risk(6)
    shuffled = shuffle_outcomes(risk, 0)
    assert (
        sorted(shuffled.runs["time"]) == sorted(risk.runs["time"])
        and shuffled.runs["failed"].sum() == risk.runs["failed"].sum()
    )
    assert (shuffled.runs["time"] != risk.runs["time"]).any()
    assert (shuffled.step < shuffled.runs["time"].to_numpy()[shuffled.run]).all()


def test_cusum_by_example():
    risk = make_risk(2)
    first = risk.part(risk.run == 0)
    first.features[:, 0] = 0
    first.features[:4, 0] = [3, 1, 5, 1]
    assert with_cusum(first, mean=1.0, spread=1.0).columns([CUSUM])[:6, 0].tolist() == [1.5, 1.0, 4.5, 4.0, 2.5, 1.0]


def test_the_log_of_a_study(output):
    rng = np.random.default_rng(0)
    entropy = {index: np.concatenate([rng.random(8), 5 + rng.random(22)]) for index in range(8)}
    cells = [
        make_cell("none", 0.0, [True] * 8),
        make_cell("knorm", 0.5, [False] * 8, {index: 12 + index for index in range(5)}, entropy=entropy),
    ]
    risk = riskset.build(cells)
    path = hazardlog.write_hazard_log("made-hazard", study(risk, folds=2, progress=False), cells, "papermill …")
    text = path.read_text()
    for title in ("## Results", "### Whole runs", "### Control", "### Failures it misses", "## Cost"):
        assert title in text
    assert text.count("`knorm 0.5`, prompt p/") == 3 and "nan" not in text
    assert hazardlog.model_path("made-hazard").exists()
    assert {p.stem for p in (output / "figures/made-hazard").iterdir()} == {"incidence", "reliability", "risk", "coefficients"}


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"horizon": 1.5}, "horizon 1.5 is not allowed; it is a whole number"),
        ({"folds": True}, "folds True is not allowed; it is a whole number"),
        ({"horizon": 0}, "horizon 0 is below 1"),
        ({"families": ["signal"]}, "feature family 'signal' is unknown; did you mean 'signals'"),
        ({"false_alarms": [5]}, r"false_alarms \[5\] are not allowed; they are shares of healthy runs"),
    ],
)
def test_parameters_that_are_none(parameters, sentence):
    with pytest.raises(InputError, match=sentence):
        study(make_risk(2), progress=False, **parameters)
