"""What each policy gains and costs, beside the full cache, the press alone, and compressing less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kvhelpers.guard.contract import Contract, judge
from kvhelpers.guard.live_study import CurvePoint, GuardedRun, LiveStudy
from kvhelpers.records import Shape
from kvhelpers.stats import Estimate, SignTest, estimate, mean, sign_test

FULL, PRESS = "none", "press"
Count = int | float  # of runs; a mean over draws where there are several


class PolicyResult(Shape):
    """A policy on all guarded runs of a source; intervals are over prompts. Of a policy that draws lots
    counts are means over its ``draws``, and its accuracy and entries × steps are pooled before they stand
    beside a mixture.

    ``loss`` is the accuracy of the full cache minus the policy's, ``saved`` the share of the full cache's
    entries × steps that it does not hold, ``above_curve`` its accuracy minus that of the best mixture of the
    press's own ratios (the full cache among them) that holds no more, ``above_press`` minus that of the press
    alone. Of the ``runs``, ``rescued`` are right under the policy and not under the press alone, ``harmed``
    the other way round; ``test`` is that of their prompts (`stats.sign_test`), None with several draws.
    ``from_start`` of the ``alarms`` left no token standing; ``rescued_from_start`` are the rescued among
    these. Of the ``right_alone`` runs that end right without a guard it acts on ``right_acted``. ``peak`` is
    in bytes, a mean over runs; ``fed`` is a mean relative to the full cache's, ``discarded`` the mean tokens
    taken back. ``slow_down`` is processor time against the full cache's, of prompts guarded while they ran,
    of which ``live_same`` of ``live`` had the composed tokens; None if there was none.
    """

    experiment: str
    policy: str
    draws: int
    acted: float
    accuracy: Estimate
    loss: Estimate
    saved: Estimate
    above_curve: Estimate
    above_press: Estimate
    runs: int
    rescued: Count
    harmed: Count
    test: SignTest | None
    alarms: Count
    from_start: Count
    rescued_from_start: Count
    right_alone: Count
    right_acted: Count
    peak: float
    fed: float
    discarded: float
    slow_down: float | None
    live: int
    live_same: int
    contract: Contract


class Spot(Shape):
    """Where a policy stands on the runs of one condition: ``held`` is its share of the full cache's entries ×
    steps.
    """

    condition: str
    policy: str
    accuracy: Estimate
    held: Estimate


@dataclass(frozen=True)
class _Unit:
    """Arrays over the guarded runs of a source, in one order of condition and prompt: means over draws."""

    prompts: list[str]
    condition: np.ndarray
    right: np.ndarray
    entry_steps: np.ndarray


def results(study: LiveStudy) -> list[PolicyResult]:
    """All policies of all sources, in the definition's order.

    The full cache and the press alone are among the policies (`definition.LiveDefinition` sees to it).
    """
    return [
        _result(study, source.experiment, policy)
        for source in study.sources
        for policy in study.definition.policies
    ]


def spots(study: LiveStudy, experiment: str) -> list[Spot]:
    """All policies on each guarded condition, in the definition's order."""
    full = runs_of(study, experiment, FULL)
    return [
        Spot(
            condition=label,
            policy=policy,
            accuracy=estimate(mean(its.right), its.prompts),
            held=estimate(_share_of(its.entry_steps, whole.entry_steps), its.prompts),
        )
        for label in curves_of(study, experiment)
        for whole in [_unit([run for run in full if run.condition == label])]
        for policy in study.definition.policies
        for its in [_unit([run for run in runs_of(study, experiment, policy) if run.condition == label])]
    ]


def gain_over(study: LiveStudy, experiment: str, policy: str, over: str) -> Estimate:
    """What a policy has above the mixture at its budget, minus what another has at its own. The interval
    is over prompts.
    """
    curves = curves_of(study, experiment)
    its, other = (_unit(runs_of(study, experiment, name)) for name in (policy, over))
    first, second = (_above_curve(unit, curves) for unit in (its, other))
    return estimate(lambda weights: first(weights) - second(weights), its.prompts)


def lost_runs(study: LiveStudy, experiment: str) -> tuple[int, int, int]:
    """How many guarded runs are right with the full cache and not under the press alone; how many of these
    fail there (`live_study.LiveSource.failing`), and how many others do not end.
    """
    (source,) = (one for one in study.sources if one.experiment == experiment)
    pairs = zip(runs_of(study, experiment, PRESS), runs_of(study, experiment, FULL), strict=True)
    lost = [press for press, full in pairs if full.correct and not press.correct]
    other = [run for run in lost if run.prompt_index not in source.failing[run.condition]]
    return len(lost), len(lost) - len(other), sum(not run.ended for run in other)


def below_curve(study: LiveStudy, experiment: str) -> list[tuple[str, str]]:
    """Policies with the conditions in which they hold less than each of the press's own ratios: no mixture
    holds so little.
    """
    curves, found = curves_of(study, experiment), []
    for policy in study.definition.policies:
        runs = runs_of(study, experiment, policy)
        for label, curve in curves.items():
            held = np.mean([run.entry_steps for run in runs if run.condition == label])
            least = min(np.mean([point.entry_steps for point in points]) for points in curve.values())
            if held < least and not np.isclose(held, least):
                found.append((policy, label))
    return found


def curves_of(study: LiveStudy, experiment: str) -> dict[str, dict[float, list[CurvePoint]]]:
    """The points that a mixture may be of, by guarded condition and ratio, the full cache's (0) first; each
    ratio's in the order of the prompts.
    """
    points = [point for point in study.curves if point.experiment == experiment]
    curves: dict[str, dict[float, list[CurvePoint]]] = {point.condition: {} for point in points}
    for point in sorted(points, key=lambda point: (point.ratio, point.prompt_id)):
        curves[point.condition].setdefault(point.ratio, []).append(point)
    return curves


def without_milder_ratio(study: LiveStudy, experiment: str) -> list[str]:
    """The guarded conditions whose press was run at no ratio between its own and the full cache's. Its own is
    that of the runs without a guard.
    """
    press, without = runs_of(study, experiment, PRESS), []
    for label, curve in curves_of(study, experiment).items():
        held = [run.entry_steps for run in press if run.condition == label]
        own = next(r for r, points in curve.items() if np.allclose([p.entry_steps for p in points], held))
        if not any(0 < ratio < own for ratio in curve):
            without.append(label)
    return without


def runs_of(study: LiveStudy, experiment: str, policy: str) -> list[GuardedRun]:
    """The runs of a source under a policy, by draw, condition and prompt."""
    runs = [run for run in study.runs if (run.experiment, run.policy) == (experiment, policy)]
    return sorted(runs, key=lambda run: (run.draw, run.condition, run.prompt_id))


def _beside(runs: Sequence[GuardedRun], others: Sequence[GuardedRun]) -> list[GuardedRun]:
    """Another policy's run of the same condition and prompt, for each run."""
    by_key = {(other.condition, other.prompt_id): other for other in others}
    return [by_key[run.condition, run.prompt_id] for run in runs]


def _unit(runs: Sequence[GuardedRun] | Sequence[CurvePoint]) -> _Unit:
    by_key: dict[tuple[str, str], list] = {}
    for run in runs:
        by_key.setdefault((run.condition, run.prompt_id), []).append(run)
    return _Unit(
        [prompt for _, prompt in by_key],
        np.array([condition for condition, _ in by_key], dtype=object),
        np.array([np.mean([run.correct for run in draws]) for draws in by_key.values()]),
        np.array([np.mean([run.entry_steps for run in draws]) for draws in by_key.values()]),
    )


def _result(study: LiveStudy, experiment: str, policy: str) -> PolicyResult:
    runs = runs_of(study, experiment, policy)
    full, press = (_beside(runs, runs_of(study, experiment, name)) for name in (FULL, PRESS))
    its, whole, alone = _unit(runs), _unit(full), _unit(press)
    loss = estimate(mean(whole.right - its.right), its.prompts)
    held = _share_of(its.entry_steps, whole.entry_steps)
    saved = estimate(lambda weights: 1 - held(weights), its.prompts)
    changes = [int(run.correct) - int(other.correct) for run, other in zip(runs, press, strict=True)]
    acted = np.array([run.alarm is not None for run in runs])
    anew = acted & np.array([run.keep == 0 for run in runs])
    right_alone = np.array([run.correct for run in press])
    better, worse = np.array(changes) > 0, np.array(changes) < 0
    draws = len({run.draw for run in runs})
    slow_down, n, same = _timed(study, experiment, policy)
    return PolicyResult(
        experiment=experiment,
        policy=policy,
        draws=draws,
        acted=float(acted.mean()),
        accuracy=estimate(mean(its.right), its.prompts),
        loss=loss,
        saved=saved,
        above_curve=estimate(_above_curve(its, curves_of(study, experiment)), its.prompts),
        above_press=estimate(mean(its.right - alone.right), its.prompts),
        runs=len(its.prompts),
        rescued=_count(better, draws),
        harmed=_count(worse, draws),
        test=sign_test(changes, its.prompts) if draws == 1 else None,
        alarms=_count(acted, draws),
        from_start=_count(anew, draws),
        rescued_from_start=_count(better & anew, draws),
        right_alone=_count(right_alone, draws),
        right_acted=_count(right_alone & acted, draws),
        peak=float(np.mean([run.peak * run.entry_bytes for run in runs])),
        fed=sum(run.fed for run in runs) / sum(run.fed for run in full),
        discarded=float(np.mean([run.discarded for run in runs])),
        slow_down=slow_down,
        live=n,
        live_same=same,
        contract=judge(loss, saved, slow_down),
    )


def _share_of(its: np.ndarray, whole: np.ndarray):
    """The statistic of a sum relative to another."""
    return lambda weights: (weights @ its) / (weights @ whole)


def _count(runs: np.ndarray, draws: int) -> Count:
    return int(runs.sum()) if draws == 1 else float(runs.sum() / draws)


def _timed(study: LiveStudy, experiment: str, policy: str) -> tuple[float | None, int, int]:
    """Slow-down against the full cache, prompts guarded while they ran, and how many were as composed."""

    def of(name: str):
        return [one for one in study.checks if (one.experiment, one.policy) == (experiment, name)]

    its, whole = of(policy), of(FULL)
    n, same = sum(check.n for check in its), sum(check.same for check in its)
    if not n:
        return None, 0, 0
    return sum(check.cpu_seconds for check in its) / sum(check.cpu_seconds for check in whole) - 1, n, same


def _above_curve(its: _Unit, curves: Mapping[str, Mapping[float, Sequence[CurvePoint]]]):
    """The statistic of `PolicyResult.above_curve`: the mean over conditions of the policy's accuracy minus
    the curve's at the policy's budget.
    """
    conditions = sorted(set(its.condition))
    by_condition = {name: list(map(_unit, curves[name].values())) for name in conditions}

    def statistic(weights: np.ndarray) -> np.ndarray:
        above = np.zeros(len(weights))
        for name in conditions:
            own = its.condition == name
            share = weights[:, own] / weights[:, own].sum(1, keepdims=True)
            held, right = share @ its.entry_steps[own], share @ its.right[own]
            points = [(share @ unit.entry_steps, share @ unit.right) for unit in by_condition[name]]
            budgets, rates = (np.stack(column, axis=1) for column in zip(*points, strict=True))
            best = [best_mixture(*row) for row in zip(budgets, rates, held, strict=True)]
            above += (right - best) / len(conditions)
        return above

    return statistic


def best_mixture(budgets: Sequence[float], rates: Sequence[float], budget: float) -> float:
    """The highest rate of a mixture of points whose mean budget is at most ``budget``; of the cheapest point
    where none is so cheap.
    """
    x, y = zip(*hull(budgets, rates), strict=True)
    return float(np.interp(budget, x, y))


def hull(budgets: Sequence[float], rates: Sequence[float]) -> list[tuple[float, float]]:
    """The points that a mixture may be of: the upper concave hull, from the cheapest to the best."""
    kept: list[tuple[float, float]] = []
    for point in sorted(zip(budgets, rates, strict=True)):
        if kept and point[1] <= kept[-1][1]:
            continue
        if kept and point[0] == kept[-1][0]:
            kept.pop()
        while len(kept) > 1 and _slope(kept[-2], kept[-1]) <= _slope(kept[-1], point):
            kept.pop()
        kept.append(point)
    return kept


def _slope(one: tuple[float, float], other: tuple[float, float]) -> float:
    return (other[1] - one[1]) / (other[0] - one[0])
