"""Verdicts follow the numbers, whichever way they fall."""

from dataclasses import replace

import pytest
from factories_risk import make_looping_study

from kvhelpers.hazard.baselines import PROPOSED
from kvhelpers.hazard.verdicts import (
    Beside,
    Caught,
    Control,
    Foreseen,
    beside_baselines,
    control,
    foreseen,
    influences,
    runs_beside_baselines,
)
from kvhelpers.stats import Estimate, TokenMetrics


@pytest.fixture(scope="module")
def study():
    return make_looping_study()[0]


def estimate(value, spread=0.05):
    return Estimate(value, value - spread, value + spread, 100, 10)


def metrics(value):
    return TokenMetrics(estimate(value / 2), estimate(value), None, None, 0.1, 100, 10)  # pooled, within


NOTHING = TokenMetrics(None, None, None, None, 0.0, 100, 0)


def changed(study, **fields):
    return study.model_copy(update=fields)


ABOVE, AROUND = Estimate(0.2, 0.1, 0.3, 100, 10), Estimate(0.0, -0.1, 0.1, 100, 10)


def alarms_at(study, *rates):
    """Alarms of the proposed predictor and of entropy, by wanted rate and the shares that they catch."""
    usual = study.alarms["entropy"][0]
    catching = [
        tuple(usual.model_copy(update={"wanted": rate[0], "caught": estimate(rate[which])}) for rate in rates)
        for which in (1, 2)
    ]
    return dict(zip((PROPOSED, "entropy"), catching, strict=True))


@pytest.mark.parametrize(
    ("difference", "rates", "answer"),
    [
        (ABOVE, [(0.1, 0.8, 0.2)], Foreseen.YES),
        (ABOVE, [(0.1, 0.2, 0.2)], Foreseen.PARTLY),
        (AROUND, [(0.1, 0.8, 0.2)], Foreseen.PARTLY),
        (AROUND, [(0.1, 0.2, 0.2)], Foreseen.NO),
        (ABOVE, [(0.1, 0.8, 0.2), (0.01, 0.2, 0.2)], Foreseen.YES),  # the highest rate decides
        (ABOVE, [(0.1, 0.2, 0.2), (0.01, 0.8, 0.2)], Foreseen.PARTLY),
        (None, [(0.1, 0.8, 0.2)], Foreseen.NOTHING_TO_TELL),
    ],
)
def test_the_answer_is_of_tokens_and_of_runs(study, difference, rates, answer):
    above = {"entropy": difference}
    caught_above = {"entropy": tuple(estimate(rate[1] - rate[2], 0.1) for rate in rates)}
    made = changed(study, above=above, alarms=alarms_at(study, *rates), caught_above=caught_above)
    assert foreseen(made) == answer


@pytest.mark.parametrize(
    ("difference", "verdict"),
    [
        (Estimate(0.2, 0.1, 0.3, 100, 10), Beside.ABOVE),
        (Estimate(-0.2, -0.3, -0.1, 100, 10), Beside.BELOW),
        (Estimate(0.2, -0.1, 0.3, 100, 10), Beside.NOT_DISTINGUISHABLE),
        (Estimate(0.2, None, None, 100, 10), Beside.NOT_DISTINGUISHABLE),
    ],
)
def test_tokens_are_compared_by_the_interval_of_the_difference(study, difference, verdict):
    above = {"entropy": difference, "canary": difference, "position": None}
    methods = study.methods | {"entropy": metrics(0.7), "canary": metrics(0.6)}
    finding = beside_baselines(changed(study, above=above, methods=methods))
    assert (finding.verdict, finding.baseline, finding.difference) == (verdict, "entropy", difference)
    assert finding.other == metrics(0.7).auroc_within


def test_without_a_difference_there_is_no_comparison(study):
    assert beside_baselines(changed(study, above=dict.fromkeys(study.above))) is None


@pytest.mark.parametrize(
    ("difference", "verdict"),
    [
        (Estimate(0.3, 0.2, 0.4, 100, 10), Caught.MORE),
        (Estimate(-0.3, -0.4, -0.2, 100, 10), Caught.FEWER),
        (Estimate(0.05, -0.05, 0.15, 100, 10), Caught.NOT_CLEAR),
        (Estimate(0.5, None, None, 100, 10), Caught.NOT_CLEAR),
    ],
)
def test_runs_are_compared_by_the_interval_of_the_difference(study, difference, verdict):
    usual = study.alarms["entropy"][0]

    def alarms(value):
        return (usual.model_copy(update={"caught": value}),)

    by_name = {PROPOSED: alarms(estimate(0.5)), "canary": alarms(estimate(0.2))}
    by_name |= {"entropy": alarms(estimate(0.4)), "position": alarms(None)}
    caught_above = {"canary": (None,), "entropy": (difference,), "position": (None,)}
    (finding,) = runs_beside_baselines(changed(study, alarms=by_name, caught_above=caught_above))
    assert (finding.verdict, finding.baseline, finding.difference) == (verdict, "entropy", difference)


def test_what_the_result_hangs_on(study):
    without = {"signals": metrics(0.3), "rolling": metrics(0.2), "canary": NOTHING}
    elsewhere = {
        "by_seen_task": {"a": metrics(0.6), "b": metrics(0.7), "c": NOTHING},
        "by_unseen_press": {"knorm": metrics(0.8)},
        "by_unseen_task": {"a": metrics(0.1)},
    }
    reasons = influences(
        changed(
            study,
            methods=study.methods | {PROPOSED: metrics(0.9)},
            ablations=changed(
                study.ablations,
                without=without,
                alone={"signals": metrics(0.1)},
            ),
            learning={0.5: metrics(0.6), 0.25: metrics(0.4)},
            elsewhere=changed(study.elsewhere, **elsewhere),
        )
    )
    assert reasons.features == estimate(0.9)
    assert reasons.costliest == ("rolling", estimate(0.2))
    assert reasons.least_share == (0.25, estimate(0.4))
    assert (reasons.tasks.worst, reasons.tasks.best) == ("a", "b")
    assert reasons.presses is None  # there is one
    assert reasons.onsets == study.data.onsets


def test_shuffled_outcomes_hold_half_or_do_not(study):
    def verdict(*values):
        return control(changed(study, control=tuple(map(metrics, values))))

    assert verdict(0.48, 0.5, 0.53).verdict == Control.HOLDS
    assert verdict(0.9, 0.91, 0.92).verdict == Control.DOES_NOT_HOLD
    assert verdict(0.1, 0.11, 0.12).verdict == Control.DOES_NOT_HOLD
    leaking = verdict(0.6, 0.7)
    assert (leaking.shuffles, leaking.mean, leaking.least, leaking.most) == pytest.approx((2, 0.65, 0.6, 0.7))
    assert leaking.high - leaking.mean == pytest.approx(12.706 * 0.1 / 2**0.5 / 2**0.5, abs=1e-3)
    nothing = changed(study, control=(NOTHING, replace(NOTHING), metrics(0.5)))
    assert control(nothing).verdict == Control.NOTHING_TO_TELL
