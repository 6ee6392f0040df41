import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from kvhelpers.experiment.grid import finished_results
from kvhelpers.guard.choice import choices, gain_where_it_chooses
from kvhelpers.guard.contract import Verdict, judge
from kvhelpers.guard.frontier import (
    below_curve,
    best_mixture,
    curves_of,
    gain_over,
    lost_runs,
    results,
    spots,
    without_milder_ratio,
)
from kvhelpers.guard.live_study import read_live_study
from kvhelpers.hazard.risk_set import build
from kvhelpers.paths import guard_path, samples_dir
from kvhelpers.report.figures.frontier import frontier_figure
from kvhelpers.stats import Estimate

STUDY, SOURCE = "012-live-guard", "002-compression-sweep"


def by_search(budgets, rates, budget):
    """The best of all mixtures of two points that hold no more, on a fine grid."""
    best = max((rate for held, rate in zip(budgets, rates, strict=True) if held <= budget), default=None)
    for one in range(len(budgets)):
        for other in range(len(budgets)):
            for share in np.linspace(0, 1, 401):
                held = share * budgets[one] + (1 - share) * budgets[other]
                rate = share * rates[one] + (1 - share) * rates[other]
                if held <= budget + 1e-9 and (best is None or rate > best):
                    best = rate
    return best


@pytest.mark.parametrize("seed", range(8))
def test_the_best_mixture_is_the_one_that_a_search_finds(seed):
    draw = np.random.default_rng(seed)
    budgets, rates = draw.uniform(1, 10, 5), draw.uniform(0, 1, 5)
    for budget in draw.uniform(budgets.min(), 11, 5):
        assert best_mixture(budgets, rates, budget) == pytest.approx(
            by_search(budgets, rates, budget), abs=0.01
        )


def test_a_budget_below_all_points_is_given_the_cheapest():
    assert best_mixture([2.0, 4.0], [0.3, 0.9], 1.0) == 0.3


def estimate(value, low, high):
    return Estimate(value, low, high, 50, 50)


@pytest.mark.parametrize(
    ("loss", "saved", "slow_down", "verdict"),
    [
        ((0.0, -0.02, 0.02), (0.4, 0.3, 0.5), 0.05, Verdict.PASS),
        ((0.0, -0.02, 0.021), (0.4, 0.3, 0.5), 0.05, Verdict.FAIL),
        ((0.0, -0.02, 0.02), (0.4, 0.2, 0.5), 0.05, Verdict.FAIL),
        ((0.0, -0.02, 0.02), (0.4, 0.3, 0.5), 0.11, Verdict.FAIL),
        ((0.0, -0.02, 0.02), (0.4, 0.3, 0.5), None, Verdict.NOT_MEASURED),
        ((0.0, -0.02, 0.05), (0.4, 0.3, 0.5), None, Verdict.FAIL),
    ],
)
def test_the_contract_is_kept_only_by_all_of_its_clauses(loss, saved, slow_down, verdict):
    assert judge(estimate(*loss), estimate(*saved), slow_down).whole == verdict


@pytest.fixture(scope="module")
def study():
    return read_live_study(guard_path(STUDY, samples_dir()))


@pytest.fixture(scope="module")
def runs(study):
    """A row a guarded run of a policy that draws no lots; of each value, a column a policy."""
    table = pd.DataFrame(run.model_dump() for run in study.runs)
    return table[table["policy"] != "permuted"].pivot(index=["condition", "prompt_id"], columns="policy")


def test_what_is_said_of_runs_is_what_pandas_counts(study, runs):
    right = runs["correct"].astype(bool)
    by_policy = {one.policy: one for one in results(study) if one.policy != "permuted"}
    for name, one in by_policy.items():
        assert one.rescued == (right[name] & ~right["press"]).sum()
        assert one.harmed == (~right[name] & right["press"]).sum()
        assert one.above_press.value == pytest.approx((right[name].astype(int) - right["press"]).mean())
        net = (right[name].astype(int) - right["press"]).groupby("prompt_id").sum()
        better, worse = (net > 0).sum(), (net < 0).sum()
        assert (one.test.better, one.test.worse) == (better, worse)
        assert one.test.p == pytest.approx(binomtest(better, better + worse).pvalue if better + worse else 1)
        again = runs["alarm"][name].notna() & (runs["keep"][name] == 0)
        assert (one.alarms, one.from_start) == (runs["alarm"][name].notna().sum(), again.sum())
        assert one.rescued_from_start == (again & right[name] & ~right["press"]).sum()
        assert one.right_alone == right["press"].sum()
        assert one.right_acted == (runs["alarm"][name].notna() & right["press"]).sum()
    lost = right["none"] & ~right["press"]
    (source,) = study.sources
    results_of = [
        result for result in finished_results(SOURCE, samples_dir()) if result.label in source.conditions
    ]
    risk = pd.concat([build([result]).runs.assign(label=result.label) for result in results_of])
    failing = risk[risk["failed"]].set_index(["label", "prompt"]).index
    fails = lost[lost].index.isin(failing)
    unended = ~runs["ended"]["press"].astype(bool)[lost] & ~fails
    assert lost_runs(study, SOURCE) == (lost.sum(), fails.sum(), unended.sum())


def test_what_draws_lots_is_its_mean_over_all_draws(study, runs):
    """Each draw by itself, as a study of its own, has the numbers of which these are the means."""
    definition = study.definition.model_copy(update={"policies": ("none", "press", "permuted")})

    def permuted(runs):
        small = study.model_copy(update={"definition": definition, "runs": tuple(runs)})
        return next(one for one in results(small) if one.policy == "permuted")

    whole = permuted(study.runs)
    draws = [
        permuted(run for run in study.runs if run.policy != "permuted" or run.draw == draw)
        for draw in range(whole.draws)
    ]
    assert whole.draws == study.definition.permutations == 10 and whole.runs == len(runs)
    assert whole.test is None and all(one.test for one in draws)
    for name in ("rescued", "harmed", "alarms", "from_start", "right_alone", "right_acted", "peak", "fed"):
        assert getattr(whole, name) == pytest.approx(np.mean([getattr(one, name) for one in draws]))
    for name in ("accuracy", "loss", "saved", "above_press"):
        assert getattr(whole, name).value == pytest.approx(
            np.mean([getattr(one, name).value for one in draws])
        )
    assert len({one.accuracy.value for one in draws}) > 1


def test_what_is_above_the_mixture_is_pooled_over_draws(study):
    table = pd.DataFrame(run.model_dump() for run in study.runs)
    own = table.groupby(["policy", "condition"])[["correct", "entry_steps"]].mean()
    points = pd.DataFrame(point.model_dump() for point in study.curves)
    curve = points.groupby(["condition", "ratio"])[["correct", "entry_steps"]].mean()
    for one in results(study):
        above = [
            right - by_search(*curve.loc[label][["entry_steps", "correct"]].to_numpy().T, held)
            if held > curve.loc[label]["entry_steps"].min()
            else right - curve.loc[label].sort_values("entry_steps")["correct"].iloc[0]
            for label, (right, held) in own.loc[one.policy].iterrows()
        ]
        assert one.above_curve.value == pytest.approx(np.mean(above), abs=0.005)


def test_a_policy_stands_where_its_runs_do_in_a_panel_of_their_condition(study):
    table = pd.DataFrame(run.model_dump() for run in study.runs)
    own = table.groupby(["condition", "policy"])[["correct", "entry_steps"]].mean()
    made = spots(study, SOURCE)
    for one in made:
        right, held = own.loc[one.condition, one.policy]
        assert one.accuracy.value == pytest.approx(right)
        assert one.held.value == pytest.approx(held / own.loc[one.condition, "none"]["entry_steps"])
    assert len(made) == len(own)
    panels = frontier_figure(study).axes
    assert [axes.get_title() for axes in panels] == list(study.sources[0].conditions)
    for axes in panels:
        drawn = {tuple(bars[0].get_xydata()[0]) for bars in axes.containers}
        assert drawn == {(s.held.value, s.accuracy.value) for s in made if s.condition == axes.get_title()}


def test_the_choice_by_condition_is_what_pandas_counts(study):
    made = choices(study, SOURCE, "hazard_roll_back")
    table = pd.DataFrame(run.model_dump() for run in study.runs)
    own = table[table["policy"] == "hazard_roll_back"].groupby("condition")
    dealt = table[table["policy"] == "permuted"].groupby(["condition", "draw"])["correct"].sum()
    for one in made:
        part = own.get_group(one.condition)
        assert (one.n, one.alarms, one.right) == (50, part["alarm"].notna().sum(), part["correct"].sum())
        assert one.from_start == (part["keep"] == 0).sum()
        assert one.right_dealt == pytest.approx(dealt[one.condition].mean())
    whole = gain_over(study, SOURCE, "hazard_roll_back", "permuted")
    assert np.mean([one.gain.value for one in made]) == pytest.approx(whole.value)
    left = [one for one in made if one.alarms < one.n]
    part = gain_where_it_chooses(study, SOURCE, "hazard_roll_back", made)
    assert part.value == pytest.approx(np.mean([one.gain.value for one in left])) and len(left) == 2
    assert gain_where_it_chooses(study, SOURCE, "hazard_roll_back", left) is None


def test_a_gain_is_the_first_policy_s_over_the_second_at_equal_memory(study):
    gain = gain_over(study, SOURCE, "hazard_roll_back", "permuted")
    first, second = (
        next(one for one in results(study) if one.policy == name).above_curve.value
        for name in ("hazard_roll_back", "permuted")
    )
    assert gain.value == pytest.approx(first - second)
    back = gain_over(study, SOURCE, "permuted", "hazard_roll_back")
    assert (back.value, back.low) == pytest.approx((-gain.value, -gain.high))


def test_what_holds_less_than_each_ratio_is_named(study):
    table = pd.DataFrame(run.model_dump() for run in study.runs)
    held = table.groupby(["condition", "policy"])["entry_steps"].mean()
    points = pd.DataFrame(point.model_dump() for point in study.curves)
    least = points.groupby(["condition", "ratio"])["entry_steps"].mean().groupby("condition").min()
    below = [
        (policy, label)
        for policy in study.definition.policies
        for label in study.sources[0].conditions
        if held.loc[label, policy] < least[label] - 1e-6
    ]
    assert sorted(below_curve(study, SOURCE)) == sorted(below) and below


def test_a_mixture_may_be_of_each_ratio_that_was_run(study):
    curves = curves_of(study, SOURCE)
    assert curves.keys() == {"streaming_llm 0.875", "tova 0.75", "tova 0.875"}
    assert all(list(curve) == [0, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875] for curve in curves.values())


@pytest.mark.parametrize(
    ("missing", "without"), [([], 0), ([0.25, 0.375, 0.5], 0), ([0.25, 0.375, 0.5, 0.625], 1)]
)
def test_a_condition_without_a_milder_ratio_is_named(study, missing, without):
    """TOVA at .75 is without one when the rest is gone, though .875 was run; those at .875 have .75."""
    left = study.model_copy(
        update={"curves": tuple(point for point in study.curves if point.ratio not in missing)}
    )
    assert without_milder_ratio(left, SOURCE) == ["tova 0.75"][:without]
