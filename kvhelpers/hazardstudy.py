"""Everything that is computed about predictors of failure, once, for the notebook and for the log.

Every score comes from a predictor that has seen neither the prompt nor, where it says so, the press or the task. Penalty and
trees were chosen on other problems (`hazard`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from tqdm import tqdm

from kvhelpers import folds as folds_
from kvhelpers.bootstrap import Estimate, draws
from kvhelpers.causal import FAMILIES
from kvhelpers.errors import InputError, unknown_name
from kvhelpers.hazard import AVERAGE, BOOSTING, LOGISTIC, HazardModel, fit
from kvhelpers.predictors import MAIN, PROPOSED, family_names, learn, methods, press_names
from kvhelpers.presses import NONE
from kvhelpers.riskset import CENSORED, RiskSet
from kvhelpers.runwarnings import RATES, RunWarnings, run_warnings
from kvhelpers.tokenmetrics import TokenMetrics, auroc_difference, reliability, token_metrics

HORIZONS = (1, 5, 10, 32, 50)
SHARES = (0.25, 0.5, 0.75)  # of the training prompts, for the learning curve
COEFFICIENT_DRAWS = 40
SHUFFLES = 6  # of outcomes; a single one lies off 0.5 by chance
UNSEEN = "presses never seen, all"
TOLD_CELL = "with share removed and press"
KINDS_TOLD = {AVERAGE: PROPOSED, LOGISTIC: "logistic hazard", BOOSTING: "boosted trees"}


@dataclass(frozen=True)
class Study:
    """What was found at horizon ``horizon`` with features of ``families``, unless said otherwise.

    Tables map a method's name to `TokenMetrics`. ``above`` are the differences of the proposed predictor's AUROC and each
    baseline's, over the same draws of prompts; ``control`` has one entry per shuffle of the outcomes; ``scores`` are the
    proposed predictor's out-of-fold scores by token at risk; ``model`` is trained on all prompts.
    """

    risk: RiskSet
    horizon: int
    families: tuple[str, ...]
    methods: dict[str, TokenMetrics]
    above: dict[str, Estimate | None]
    by_horizon: dict[int, TokenMetrics]
    elsewhere: dict[str, TokenMetrics]
    ablations: dict[str, TokenMetrics]
    control: list[TokenMetrics]
    learning: dict[float, TokenMetrics]
    warnings: dict[str, list[RunWarnings]]
    reliability: pd.DataFrame
    coefficients: pd.DataFrame
    scores: np.ndarray
    model: HazardModel


def study(
    risk: RiskSet,
    horizon: int = 10,
    folds: int = folds_.FOLDS,
    families: Sequence[str] = MAIN,
    false_alarms: Sequence[float] = RATES,
    progress: bool = True,
) -> Study:
    """Compute everything for a predictor on some `causal.FAMILIES` of features, with these wanted rates of false alarms.

    Raises
    ------
    InputError : a parameter that is not allowed, or too little to learn from.
    """
    for name, value in (("horizon", horizon), ("folds", folds)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise InputError(f"{name} {value!r} is not allowed; it is a whole number")
    if horizon < 1:
        raise InputError(f"horizon {horizon} is below 1; it is a number of tokens")
    for family in families:
        if family not in FAMILIES:
            raise unknown_name("feature family", family, FAMILIES)
    if isinstance(false_alarms, str) or not false_alarms or not all(0 < rate < 1 for rate in false_alarms):
        raise InputError(f"false_alarms {false_alarms!r} are not allowed; they are shares of healthy runs, above 0 and below 1")
    named, main = methods(risk, families), family_names(*families)
    warning = {name: method for name, method in named.items() if method.kind}  # a constant warns of nothing
    proposed = folds_.learner(horizon, main, AVERAGE)
    with tqdm(total=8, desc="hazard", unit="part", disable=not progress) as bar:

        def step(result):
            bar.update()
            return result

        scores = folds_.out_of_fold_kinds(risk, horizon, main, folds)
        found = {KINDS_TOLD[kind]: judged(risk, scores[kind], horizon, folds) for kind in KINDS_TOLD}
        above = {}
        for name, method in named.items():
            if name not in found:
                other = folds_.out_of_fold(risk, learn(method, horizon), folds)
                found[name] = judged(risk, other, horizon, folds)
                above[name] = auroc_difference(scores[AVERAGE], other, risk.label(horizon), risk.prompts)
        step(found)
        others = [one for one in HORIZONS if one != horizon]
        by_horizon = {
            one: judged(risk, folds_.out_of_fold(risk, folds_.learner(one, main, AVERAGE), folds), one, folds) for one in others
        } | {horizon: found[PROPOSED]}
        step(by_horizon)
        return Study(
            risk,
            horizon,
            tuple(families),
            found,
            above,
            dict(sorted(by_horizon.items())),
            step(_elsewhere(risk, proposed, scores[AVERAGE], horizon, folds)),
            step(_ablations(risk, families, horizon, folds)),
            step(_control(risk, proposed, horizon, folds)),
            step(_learning(risk, proposed, horizon, folds)),
            step({name: run_warnings(risk, learn(one, horizon), folds, false_alarms) for name, one in warning.items()}),
            reliability(scores[AVERAGE], risk.label(horizon)),
            step(_coefficients(risk, main, horizon)),
            scores[AVERAGE],
            fit(risk, horizon, main, AVERAGE),
        )


def judged(risk: RiskSet, scores: np.ndarray, horizon: int, folds: int, where: np.ndarray | None = None) -> TokenMetrics:
    """Token metrics of scores, on all tokens at risk or those in a mask.

    Pairs at the same token are also of the same fold: a fold with more failures than the others is scored by a predictor that
    has seen fewer, so that over all folds even a constant looks as if it knew something, the wrong way round.
    """
    label, fold = risk.label(horizon), folds_.fold_of_run(risk, folds)[risk.run]
    where = np.ones(len(label), dtype=bool) if where is None else where
    strata = fold * (risk.step.max(initial=0) + 1) + risk.step
    return token_metrics(scores[where], label[where], risk.prompts[where], strata[where])


def _elsewhere(risk: RiskSet, proposed: folds_.Fit, own: np.ndarray, horizon: int, folds: int) -> dict[str, TokenMetrics]:
    """The proposed predictor on presses and tasks that it has not seen, nor the prompts; its scores on parts of the runs."""
    scores = folds_.press_left_out(risk, proposed, folds)
    press, task = risk.runs["press"].to_numpy()[risk.run], risk.runs["task"].to_numpy()[risk.run]
    compressed = press != NONE
    found = {UNSEEN: judged(risk, scores, horizon, folds, compressed)}
    found |= {
        f"press never seen: {name}": judged(risk, scores, horizon, folds, press == name)
        for name in sorted(set(press[compressed]))
    }
    if len(set(task)) > 1:
        across = folds_.task_left_out(risk, proposed)
        found |= {f"task never seen: {name}": judged(risk, across, horizon, folds, task == name) for name in sorted(set(task))}
    whole = (risk.runs["event"] != CENSORED).to_numpy()[risk.run]
    found["all presses seen, censored runs left out"] = judged(risk, own, horizon, folds, whole)
    if len(set(task)) > 1:
        found |= {f"all seen, {name} only": judged(risk, own, horizon, folds, task == name) for name in sorted(set(task))}
    return found


def _ablations(risk: RiskSet, families: Sequence[str], horizon: int, folds: int) -> dict[str, TokenMetrics]:
    """The logistic hazard with other families of features."""
    sets = {f"without {family}": family_names(*(other for other in families if other != family)) for family in families}
    sets |= {f"{family} only": family_names(family) for family in families}
    sets |= {
        "with position": family_names(*dict.fromkeys([*families, "position"])),
        "with share removed": (*family_names(*families), "removed"),
        TOLD_CELL: (*family_names(*families), "removed", *press_names(risk)),
    }
    found = {}
    for name, names in ((name, names) for name, names in sets.items() if names):
        scores = folds_.out_of_fold(risk, folds_.learner(horizon, names, LOGISTIC), folds)
        found[name] = judged(risk, scores, horizon, folds)
    return found


def _control(risk: RiskSet, proposed: folds_.Fit, horizon: int, folds: int) -> list[TokenMetrics]:
    """The same with outcomes shuffled between runs, several times; what is left is no knowledge of the run."""
    shuffles = [shuffle_outcomes(risk, seed) for seed in range(SHUFFLES)]
    return [judged(one, folds_.out_of_fold(one, proposed, folds), horizon, folds) for one in shuffles]


def shuffle_outcomes(risk: RiskSet, seed: int) -> RiskSet:
    """Give each run the event and its time of a run drawn at random; a run keeps its tokens at risk up to its new event.

    What a run's features say of its own outcome is gone. What is left: failures come at certain tokens, and a run that is given
    a later event than its own has no tokens there.
    """
    rng, runs = np.random.default_rng(seed), risk.runs.copy()
    order = rng.permutation(len(runs))
    runs[["event", "time", "failed"]] = risk.runs[["event", "time", "failed"]].to_numpy()[order]
    runs = runs.astype({"time": int, "failed": bool})
    return RiskSet(runs, risk.run, risk.step, risk.features, risk.names).part(risk.step < runs["time"].to_numpy()[risk.run])


def _learning(risk: RiskSet, proposed: folds_.Fit, horizon: int, folds: int) -> dict[float, TokenMetrics]:
    """The same test tokens, with a share of the training prompts only."""

    def with_share(share: float) -> folds_.Fit:
        def learn_part(part: RiskSet, train: np.ndarray) -> Callable[[RiskSet], np.ndarray]:
            prompts = sorted(set(part.prompts[train]))
            few = set(np.random.default_rng(0).permutation(prompts)[: max(2, round(share * len(prompts)))])
            return proposed(part, train & np.isin(part.prompts, list(few)))

        return learn_part

    return {share: judged(risk, folds_.out_of_fold(risk, with_share(share), folds), horizon, folds) for share in SHARES}


def _coefficients(risk: RiskSet, names: tuple[str, ...], horizon: int) -> pd.DataFrame:
    """Logistic coefficients (log-odds per standard deviation) with 95 % intervals over draws of the prompts, largest first."""
    prompts = sorted(set(risk.runs["prompt"]))
    fitted = fit(risk, horizon, names, LOGISTIC).numbers["coefficient"]
    drawn, codes = [], np.searchsorted(prompts, risk.prompts)
    for weights in draws(len(prompts))[:COEFFICIENT_DRAWS]:
        times = weights[codes].astype(int)
        again = risk.part(np.repeat(np.arange(len(times)), times))
        drawn.append(fit(again, horizon, names, LOGISTIC).numbers["coefficient"])
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    table = pd.DataFrame({"feature": names, "coefficient": fitted, "low": low, "high": high})
    return table.sort_values("coefficient", key=np.abs, ascending=False, ignore_index=True)
