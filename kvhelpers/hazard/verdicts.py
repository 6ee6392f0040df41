"""What a study says: verdicts that follow the numbers, whichever way they fall. Words for them are in
`kvhelpers.report`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy.stats import t

from kvhelpers.hazard.baselines import PROPOSED, RECURRENT
from kvhelpers.hazard.run_alarms import RunAlarms
from kvhelpers.hazard.study import Study
from kvhelpers.stats import Estimate, TokenMetrics


class Foreseen(StrEnum):
    """Whether the proposed predictor is better than every baseline: on single tokens and on whole runs, on
    one of them, or on neither.
    """

    YES = "yes"
    PARTLY = "partly"
    NO = "no"
    NOTHING_TO_TELL = "nothing to tell apart"


class Beside(StrEnum):
    """The proposed predictor's AUROC within condition and token beside a baseline's, by the interval of their
    difference.
    """

    ABOVE = "above"
    BELOW = "below"
    NOT_DISTINGUISHABLE = "not distinguishable"


class Caught(StrEnum):
    """Failures caught beside the best baseline's, by the interval of the difference."""

    MORE = "more"
    FEWER = "fewer"
    NOT_CLEAR = "not clear"


class Control(StrEnum):
    """Whether shuffled outcomes leave an AUROC of 0.5."""

    HOLDS = "holds"
    DOES_NOT_HOLD = "does not hold"
    NOTHING_TO_TELL = "nothing to tell apart"


@dataclass(frozen=True)
class TokenFinding:
    """The proposed predictor and a baseline on single tokens of the same condition and number, with the
    difference of their AUROC.
    """

    verdict: Beside
    proposed: Estimate
    baseline: str
    other: Estimate
    difference: Estimate


@dataclass(frozen=True)
class RunFinding:
    """The proposed predictor and the best baseline on whole runs, at one wanted rate of false alarms, with
    the difference of their shares of failures caught.
    """

    verdict: Caught
    proposed: RunAlarms
    baseline: str
    other: RunAlarms
    difference: Estimate


@dataclass(frozen=True)
class ControlFinding:
    """AUROC within condition and token with outcomes shuffled ``shuffles`` times: mean, its t interval over
    shuffles, least and most; and the mean AUROC over all pairs. NaN where there is nothing to tell apart.
    """

    verdict: Control
    shuffles: int
    mean: float
    low: float
    high: float
    least: float
    most: float
    over_all: float


@dataclass(frozen=True)
class Extremes:
    """The parts of the data with the lowest and the highest AUROC."""

    worst: str
    worst_auroc: Estimate
    best: str
    best_auroc: Estimate


@dataclass(frozen=True)
class Influences:
    """What the proposed predictor's AUROC hangs on; None where there is nothing to say.

    ``costliest`` is the family of features without which it loses most, beside the AUROC of all
    (``features``); ``least_share`` is the smallest
    share of the training prompts and its AUROC; ``tasks`` were seen, ``presses`` were not; ``onsets`` are the
    quartiles of the failures' tokens.
    """

    features: Estimate | None
    costliest: tuple[str, Estimate] | None
    least_share: tuple[float, Estimate] | None
    tasks: Extremes | None
    presses: Extremes | None
    onsets: tuple[float, float, float]


def foreseen(study: Study) -> Foreseen:
    """The answer in a word; whole runs are judged at the highest wanted rate of false alarms."""
    tokens, runs = beside_baselines(study), runs_beside_baselines(study)
    if tokens is None or not runs:
        return Foreseen.NOTHING_TO_TELL
    better = [tokens.verdict == Beside.ABOVE, runs[-1].verdict == Caught.MORE]
    return Foreseen.YES if all(better) else Foreseen.PARTLY if any(better) else Foreseen.NO


def beside_baselines(study: Study) -> TokenFinding | None:
    """The proposed predictor against the best baseline on single tokens; None if there is nothing to tell
    apart.
    """
    differences = [name for name, found in study.above.items() if found and name != RECURRENT]
    if not differences:
        return None
    return _beside(study, max(differences, key=lambda name: study.methods[name].auroc_within.value))


def _beside(study: Study, baseline: str) -> TokenFinding:
    difference = study.above[baseline]
    verdict = Beside.NOT_DISTINGUISHABLE
    if difference.low is not None and not difference.low <= 0 <= difference.high:
        verdict = Beside.ABOVE if difference.value > 0 else Beside.BELOW
    proposed, other = study.methods[PROPOSED].auroc_within, study.methods[baseline].auroc_within
    return TokenFinding(verdict, proposed, baseline, other, difference)


def runs_beside_baselines(study: Study) -> list[RunFinding]:
    """The proposed predictor against the best baseline on whole runs, at each wanted rate of false alarms,
    the highest last.
    """
    findings = []
    for index, alarms in sorted(enumerate(study.alarms[PROPOSED]), key=lambda pair: pair[1].wanted):
        rivals = {name: by_rate[index] for name, by_rate in study.alarms.items() if name != PROPOSED}
        rivals = {name: other for name, other in rivals.items() if other.caught}
        if alarms.caught is None or not rivals:
            continue
        best = max(rivals, key=lambda name: rivals[name].caught.value)
        difference = study.caught_above[best][index]
        findings.append(RunFinding(_caught(difference), alarms, best, rivals[best], difference))
    return findings


def _caught(difference: Estimate) -> Caught:
    if difference.low is None or difference.low <= 0 <= difference.high:
        return Caught.NOT_CLEAR
    return Caught.MORE if difference.value > 0 else Caught.FEWER


def influences(study: Study) -> Influences:
    """What the AUROC within condition and token hangs on: features, data, kinds of runs, how early failures
    come.
    """
    without = _aurocs(study.ablations.without)
    least = min(study.learning)
    auroc = study.learning[least].auroc_within
    return Influences(
        features=study.methods[PROPOSED].auroc_within,
        costliest=min(without.items(), key=lambda pair: pair[1].value, default=None),
        least_share=None if auroc is None else (least, auroc),
        tasks=_extremes(_aurocs(study.elsewhere.by_seen_task)),
        presses=_extremes(_aurocs(study.elsewhere.by_unseen_press)),
        onsets=study.data.onsets,
    )


def _aurocs(metrics: Mapping[str, TokenMetrics]) -> dict[str, Estimate]:
    return {name: value.auroc_within for name, value in metrics.items() if value.auroc_within}


def _extremes(aurocs: Mapping[str, Estimate]) -> Extremes | None:
    if len(aurocs) < 2:
        return None
    ranked = sorted(aurocs.items(), key=lambda pair: pair[1].value)
    return Extremes(*ranked[0], *ranked[-1])


def control(study: Study) -> ControlFinding:
    """What the proposed predictor knows when outcomes are shuffled between runs."""
    within = [metrics.auroc_within.value for metrics in study.control if metrics.auroc_within]
    over_all = [metrics.auroc.value for metrics in study.control if metrics.auroc]
    if len(within) < 2:
        return ControlFinding(Control.NOTHING_TO_TELL, len(within), *[np.nan] * 6)
    mean = float(np.mean(within))
    half = float(t.ppf(0.975, len(within) - 1) * np.std(within, ddof=1) / np.sqrt(len(within)))
    verdict = Control.HOLDS if mean - half <= 0.5 <= mean + half else Control.DOES_NOT_HOLD
    return ControlFinding(
        verdict,
        len(within),
        mean,
        mean - half,
        mean + half,
        min(within),
        max(within),
        float(np.mean(over_all)),
    )
