import pytest
from factories import make_result

from kvhelpers.analysis.analyse import analyse
from kvhelpers.analysis.claims import ClaimVerdict, judge_claims
from kvhelpers.errors import InputError
from kvhelpers.experiment.grid import Claim, ClaimKind, load_experiment
from kvhelpers.report.format import claim_measure

REPRODUCED, NOT_REPRODUCED, UNDECIDED = ClaimVerdict
N = 100


def solved(count):
    return [True] * count + [False] * (N - count)


def judged(kind, results, first="", second=""):
    claim = Claim(about="It is so", there="10 of 10", kind=kind, first=first, second=second)
    (one,) = judge_claims([claim], results, analyse(results))
    return one


@pytest.mark.parametrize(
    ("count", "verdict"),
    [(90, REPRODUCED), (88, REPRODUCED), (82, UNDECIDED), (60, NOT_REPRODUCED)],
)
def test_an_accuracy_survives_unless_ten_points_are_lost(count, verdict):
    results = [make_result("none", 0.0, solved(90)), make_result("knorm", 0.5, solved(count))]
    assert judged("survives", results, "knorm 0.5").verdict == verdict


@pytest.mark.parametrize(("count", "verdict"), [(0, REPRODUCED), (9, UNDECIDED), (50, NOT_REPRODUCED)])
def test_a_collapse_leaves_fewer_than_a_tenth(count, verdict):
    one = judged("collapses", [make_result("knorm", 0.5, solved(count))], "knorm 0.5")
    assert one.verdict == verdict
    assert one.measure.value == count / N and one.measure.n == N


def looping(press, prompts):
    return make_result(press, 0.5, solved(0), dict.fromkeys(prompts, 3))


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        (range(60), range(10), REPRODUCED),
        (range(30), range(26, 50), UNDECIDED),
        (range(10), range(10), NOT_REPRODUCED),
        (range(10), range(60), NOT_REPRODUCED),
    ],
)
def test_loops_are_compared_prompt_by_prompt(first, second, verdict):
    results = [looping("knorm", first), looping("tova", second)]
    assert judged("loops more", results, "knorm 0.5", "tova 0.5").verdict == verdict


@pytest.mark.parametrize(("larger", "verdict"), [(90, REPRODUCED), (54, UNDECIDED), (20, NOT_REPRODUCED)])
def test_the_largest_entropies_of_a_prompt_are_compared(larger, verdict):
    high, low = [[0.5, 2.0, 0.1], [0.5, 1.0, 0.1]]
    entropy = {index: high if index < larger else [0.5, 0.6, 0.1] for index in range(N)}
    results = [
        make_result("none", 0.0, solved(50), entropy=dict.fromkeys(range(N), low)),
        make_result("knorm", 0.5, solved(50), entropy=entropy),
    ]
    one = judged("more entropy", results, "knorm 0.5", "none")
    assert one.verdict == verdict and one.measure.value == larger / N


def test_where_nothing_loops_a_warning_is_undecided():
    one = judged("warns", [make_result("none", 0.0, solved(50))])
    assert one.verdict == UNDECIDED and one.measure is None
    assert claim_measure(one) == "nothing to measure"


def test_a_condition_that_is_not_finished_leaves_its_claim_undecided():
    assert judged("collapses", [make_result("none", 0.0, solved(50))], "knorm 0.5").verdict == UNDECIDED


def test_measures_are_written_with_interval_and_n():
    results = [make_result("none", 0.0, solved(90)), make_result("knorm", 0.5, solved(90))]
    assert claim_measure(judged("survives", results, "knorm 0.5")) == "0 points [−3, +3], n = 100"
    assert claim_measure(judged("collapses", results, "knorm 0.5")) == "90 % [83, 94], n = 100"


@pytest.mark.parametrize("kind", ClaimKind)
def test_a_claim_names_the_conditions_that_its_kind_needs(kind):
    with pytest.raises(ValueError, match=f"a claim of kind '{kind.value}' names"):
        Claim(about="a", there="b", kind=kind, second="none")


def test_a_claim_about_a_condition_that_is_not_run_is_refused(write):
    claim = {"about": "a", "there": "b", "kind": "collapses", "first": "knorm 0.9"}
    path = write(claims=[claim])
    with pytest.raises(InputError, match="claim condition 'knorm 0.9' is unknown"):
        load_experiment(path).conditions()
    with pytest.raises(InputError, match=r"claims\.0 .* a claim of kind 'warns' names none"):
        load_experiment(write(claims=[claim | {"kind": "warns"}]))
