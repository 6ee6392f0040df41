"""What an oracle knows of a run is its twin's and the prompt's other runs', by example."""

import numpy as np
import pytest
from factories import make_result

from kvhelpers.hazard.risk_set import build
from kvhelpers.hazard.scrutiny import whole_runs
from kvhelpers.hazard.twins import PROMPT, TWIN, with_twins

SAME = {0: 1000 + np.arange(30)}


@pytest.fixture(scope="module")
def known():
    results = [
        make_result("none", 0.0, [True, False], entropy={0: np.ones(20), 1: np.ones(20)}),
        make_result("knorm", 0.5, [False, True], {0: 12}, entropy={0: np.full(30, 3.0), 1: np.ones(20)}),
        make_result("tova", 0.5, [True, True]),
    ]
    risk, whole = build(results), whole_runs(results)
    return with_twins(risk, results, [(run.token_ids, run.entropy) for run in whole.runs])


def row(risk, condition, prompt, step):
    runs = risk.runs
    run = runs.index[(runs["condition"] == condition) & (runs["prompt"] == prompt)][0]
    (token,) = np.flatnonzero((risk.run == run) & (risk.step == step))
    return dict(zip(risk.names, risk.features[token].tolist(), strict=True))


def test_a_run_that_says_what_its_twin_says_is_the_same(known):
    at = row(known, "knorm 0.5", "p/0", 5)
    assert (at["same"], at["since_difference"], at["twin_entropy_gap"], at["in_twin16"]) == (1, 0, 2, 1)
    assert (at["twin_right"], at["twin_tokens"], at["twin_left"]) == (1, 20, 14)
    other = row(known, "knorm 0.5", "p/1", 5)
    assert (other["twin_right"], other["twin_entropy_gap"]) == (0, 0)


def test_a_run_is_another_once_it_is_longer(known):
    at = row(known, "tova 0.5", "p/0", 22)
    assert (at["same"], at["since_difference"]) == (0, 3) and np.isnan(at["twin_entropy_gap"])
    assert at["in_twin16"] == 13 / 16  # the last trigram of the twin ends at token 19


def test_other_runs_are_those_of_the_prompt_under_other_presses(known):
    at = row(known, "tova 0.5", "p/0", 3)
    assert (at["fails_elsewhere"], at["right_elsewhere"]) == (1, 0)
    at = row(known, "knorm 0.5", "p/0", 3)
    assert (at["fails_elsewhere"], at["right_elsewhere"]) == (0, 1)
    at = row(known, "none", "p/0", 3)
    assert np.isnan(at["twin_right"])  # it is no twin of itself
    assert (at["fails_elsewhere"], at["right_elsewhere"]) == (0.5, 0.5)


def test_without_an_uncompressed_run_there_is_no_twin():
    results = [make_result("knorm", 0.5, [False, True], {0: 12})]
    risk, whole = build(results), whole_runs(results)
    lone = with_twins(risk, results, [(run.token_ids, run.entropy) for run in whole.runs])
    assert np.isnan(lone.columns(TWIN)).all() and np.isnan(lone.columns(PROMPT)).all()
    assert lone.names[-len(TWIN + PROMPT) :] == TWIN + PROMPT
