"""Cumulative incidence with ties, beside a plain Aalen-Johansen and beside lifelines."""

import warnings
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from lifelines import AalenJohansenFitter

from kvhelpers.experiment.results import read_result
from kvhelpers.hazard.events import Event, event_of
from kvhelpers.hazard.incidence import AT_RISK, incidence, incidence_curves
from kvhelpers.paths import samples_dir


def made_runs(n=200, seed=0, ties=True):
    """Runs with events at few different tokens, or each at its own."""
    rng = np.random.default_rng(seed)
    time = rng.integers(0, 12, n) if ties else rng.permutation(10 * n)[:n]
    event = rng.choice([Event.LOOP, Event.OVERRUN, Event.END, Event.CENSORED], n, p=[0.3, 0.1, 0.4, 0.2])
    return as_runs(time, map(Event, event))


def as_runs(time, events):
    rows = [{"time": int(t), "event": e, "failed": e.is_failure} for t, e in zip(time, events, strict=True)]
    return pd.DataFrame(rows)


def plainly(runs):
    """Token by token, in fractions: of the runs that are still there, some fail and some end; a censored one
    leaves after its token. Incidence by tokens as long as enough are at risk.
    """
    there, healthy, failed, curve = len(runs), Fraction(1), Fraction(0), {0: 0.0}
    for token in range(1, int(runs["time"].max()) + 2):
        now = runs[runs["time"] + 1 == token]
        if there < AT_RISK:
            break
        failures = sum(bool(value) for value in now["failed"])
        ends = sum(value == Event.END for value in now["event"])
        failed += healthy * Fraction(failures, there)
        healthy *= 1 - Fraction(failures + ends, there)
        there -= len(now)
        curve[token] = float(failed)
    return curve


def check(runs):
    expected, curve = plainly(runs), incidence(runs)
    times = sorted(token for token in {0, *(runs["time"] + 1)} if token in expected)
    assert curve["tokens"].tolist() == times  # one row each
    assert curve["incidence"].tolist() == pytest.approx([expected[token] for token in times], abs=1e-12)
    return curve


@pytest.mark.parametrize("seed", range(5))
def test_ties_are_exact(seed):
    curve = check(made_runs(seed=seed))
    assert len(curve) <= 13 and curve["incidence"].is_monotonic_increasing


def test_by_hand():
    """Of 10: 2 fail and 1 ends at token 1; of 7: 1 fails and 1 is censored at token 3; then 5 are left."""
    times, events = [0, 0, 0, 2, 2, 9, 9, 9, 9, 9], [Event.LOOP] * 2 + [Event.END, Event.LOOP, Event.CENSORED]
    curve = incidence(as_runs(times, events + [Event.END] * 5))
    assert curve["tokens"].tolist() == [0, 1, 3, 10]
    assert curve["incidence"].tolist() == pytest.approx([0, 0.2, 0.3, 0.3])


def test_without_ties_it_is_lifelines_s():
    runs = made_runs(ties=False)
    codes = np.where(runs["failed"], 1, np.where(runs["event"] == Event.END, 2, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitter = AalenJohansenFitter(calculate_variance=False).fit(
            runs["time"] + 1, codes, event_of_interest=1
        )
    curve = incidence(runs)
    expected = fitter.cumulative_density_.iloc[:, 0].loc[curve["tokens"]]
    assert curve["incidence"].to_numpy() == pytest.approx(expected.to_numpy())
    assert len(curve) > 150


def test_a_curve_ends_where_few_runs_are_left():
    runs = made_runs()
    curve = incidence(runs)
    at_risk = [(runs["time"] + 1 >= token).sum() for token in curve["tokens"]]
    assert min(at_risk) >= AT_RISK
    later = [token for token in runs["time"] + 1 if token > curve["tokens"].max()]
    assert all((runs["time"] + 1 >= token).sum() < AT_RISK for token in later)


def test_a_condition_of_the_sweep_with_many_ties():
    """006, `random 0.875`: most runs loop, many from the same token on."""
    result = read_result(samples_dir() / "006-capable-model/random/qwen2.5-coder-1.5b_0.875_100p.json")
    ends = dict(tuple(result.signals(["prompt_index", "char_end"]).groupby("prompt_index")["char_end"]))
    events = [event_of(record, ends[record.prompt_index].to_numpy()) for record in result.records]
    runs = as_runs([time for _, time in events], [event for event, _ in events])
    curve = check(runs)
    assert runs["time"].duplicated().any() and curve["tokens"].max() == 328
    named = runs.assign(task="gsm8k", press="random", condition="random 0.875", removed=0.9)
    (stored,) = incidence_curves(named)
    assert (stored.runs, stored.tokens[-1]) == (100, 328)
    assert stored.incidence[-1] == pytest.approx(curve["incidence"].iloc[-1])
