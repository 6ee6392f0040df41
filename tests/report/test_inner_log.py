"""The log of a study of inner signals turns around when the numbers do."""

import pytest

from kvhelpers.hazard.baselines import PROPOSED, TREES
from kvhelpers.hazard.inner import INNER_FAMILIES
from kvhelpers.hazard.inner_study import ALL, OUTSIDE, Added, Asked, InnerStudy, gaining
from kvhelpers.hazard.provenance import StudyProvenance
from kvhelpers.report.figures.inner import gains
from kvhelpers.report.inner_log import families_frame, inner_log
from kvhelpers.stats import Estimate

FAMILIES = (OUTSIDE, *INNER_FAMILIES, ALL)


def made(value, low, high):
    return Estimate(value, low, high, 100, 20)


def asked(horizon, gain, oracle):
    """A question in which *inside* gains so much, and the others nothing."""

    def added(family):
        change = gain if family == "inside" else made(0.0, -0.01, 0.01)
        return Added(
            family=family,
            features=5,
            within=oracle if family == "oracle" else made(0.55, 0.45, 0.65),
            gain=None if family == OUTSIDE else change,
            runs=None,
        )

    every = tuple(added(family) for family in FAMILIES)
    return Asked(
        experiment="made",
        model="m",
        task="t",
        horizon=horizon,
        conditions=("knorm 0.5",),
        left_out=("tova 0.5",),
        runs=20,
        failures=5,
        not_right=9,
        prompts=20,
        tokens=100,
        off=1e-5,
        parted=0,
        added={PROPOSED: every, TREES: every},
        press_unseen=every,
    )


def log(*questions):
    machine = {"processor": "x", "cores": 2, "threads": 1, "versions": {"numpy": "2"}}
    provenance = StudyProvenance(command="do it", commit="c" * 40, clean=True, **machine)
    study = InnerStudy(asked=questions, provenance=provenance)
    return study, inner_log("013-made", study)


@pytest.mark.parametrize(
    ("gain", "says", "not_says"),
    [
        (made(0.1, 0.05, 0.15), "*inside* adds to it in the logistic hazard", "No family is"),
        (made(-0.1, -0.15, -0.05), "*inside* takes from it", "*inside* adds"),
        (made(0.1, -0.05, 0.25), "No family is shown to add to it", "takes from"),
    ],
)
def test_a_family_adds_where_its_interval_says_so(gain, says, not_says):
    _, text = log(asked(10, gain, made(0.6, 0.4, 0.8)))
    assert says in text and not_says not in text
    assert (
        "is not shown to tell more than chance either: 0.60 [0.40, 0.80]" in text
        and "target of .75 is missed" in text
    )
    assert "Not replayed in `made`: tova 0.5." in text


def test_an_oracle_above_chance_is_said_to_be():
    study, text = log(asked(None, made(0.1, 0.05, 0.15), made(0.8, 0.7, 0.9)))
    assert "tells more than chance: 0.80 [0.70, 0.90]" in text and "not shown" not in text
    assert "target" not in text  # of onsets only
    assert gaining(study.asked[0]).above == ("inside",) == gaining(study.asked[0]).above_in_both


def test_the_table_and_the_figure_have_every_number():
    study, _ = log(asked(10, made(0.1, 0.05, 0.15), None), asked(None, None, made(0.8, None, None)))
    frame = families_frame(study)
    assert len(frame) == 2 * 3 * len(FAMILIES) * 3  # questions, predictors, families, metrics
    row = frame.query("features == 'inside' and metric == 'auroc_gain'").iloc[0]
    assert (row["estimate"], row["low"], row["high"], row["n"]) == (0.1, 0.05, 0.15, 100)
    panels = gains(study).axes
    assert [axes.get_title() for axes in panels] == ["m: onset within 10", "m: not right at the end"]
