"""What a study of predictors found, in sentences that follow the numbers, whichever way they fall."""

from __future__ import annotations

import numpy as np
from scipy.stats import t

from kvhelpers.bootstrap import Estimate
from kvhelpers.hazard import LOGISTIC
from kvhelpers.hazardstudy import KINDS_TOLD, TOLD_CELL, UNSEEN, Study
from kvhelpers.predictors import PROPOSED
from kvhelpers.tables import percent
from kvhelpers.tokenmetrics import TokenMetrics

TARGETS = {PROPOSED: 0.88, UNSEEN: 0.80}  # AUROC, set before anything was measured


def result_sentences(found: Study) -> list[str]:
    """The targets, the baselines, and, if a target is missed, what it hangs on."""
    return [*target_sentences(found), *comparison_sentences(found), *shortfall_sentences(found)]


def target_sentences(found: Study) -> list[str]:
    """Whether the targets were met, with the intervals."""
    reached = {**found.methods, **found.elsewhere}
    sentences = []
    for name, target in TARGETS.items():
        one = reached.get(name)
        if one is None or one.auroc is None:
            sentences.append(f"{name}: no AUROC, since there is nothing to tell apart.")
            continue
        verdict = "reaches" if one.auroc.value >= target else "falls short of"
        sentences.append(
            f"{name}: AUROC {one.auroc.text()} {verdict} the target of {target:.2f} at horizon {found.horizon} "
            f"({one.positive} of {one.tokens} tokens precede a failure, {one.auroc.prompts} prompts)."
        )
    return sentences


def comparison_sentences(found: Study) -> list[str]:
    """The proposed predictor against the best baseline, for tokens and for runs, whichever way it falls."""
    best = max((name for name, one in found.above.items() if one), key=lambda name: found.methods[name].auroc.value)
    own, other, gain = found.methods[PROPOSED].auroc, found.methods[best].auroc, found.above[best]
    verdict = "not distinguishable from"
    if gain.low is not None and not gain.low <= 0 <= gain.high:
        verdict = "above" if gain.value > 0 else "below"
    sentences = [
        f"For single tokens, {PROPOSED} (AUROC {own.text()}) is {verdict} the best baseline, {best} ({other.text()}): "
        f"difference {gain.text()}, on the same draws of prompts."
    ]
    for index, one in enumerate(found.warnings[PROPOSED]):
        rivals = {name: judged[index] for name, judged in found.warnings.items() if name != PROPOSED and judged[index].caught}
        if one.caught is None or not rivals:
            continue
        best = max(rivals, key=lambda name: rivals[name].caught.value)
        verdict = _compared(one.caught, rivals[best].caught)
        sentences.append(
            f"For whole runs, with {percent(one.wanted)} false alarms wanted"
            f" ({one.false_alarms.percent() if one.false_alarms else '–'} raised), it catches {one.caught.percent()} of the "
            f"failures before their onset, {verdict} the best baseline, {best}: {rivals[best].caught.percent()} "
            f"({rivals[best].false_alarms.percent() if rivals[best].false_alarms else '–'} raised)."
        )
    immediate = found.warnings[PROPOSED][0].immediate
    sentences.append(
        f"{immediate} of {int(found.risk.runs['failed'].sum())} failures begin at token 0 or 1: no token could warn of them, "
        "and they are in none of these shares."
    )
    return sentences


def shortfall_sentences(found: Study) -> list[str]:
    """Why a target is missed: features, data, kinds of runs, how early failures come. None where all are reached."""
    reached = {**found.methods, **found.elsewhere}
    if all(_value(reached.get(name)) >= target for name, target in TARGETS.items() if name in reached):
        return []
    logistic, parts = found.methods[KINDS_TOLD[LOGISTIC]], found.ablations
    without = {name: one for name, one in parts.items() if name.startswith("without ") and one.auroc}
    sentences = []
    if without and logistic.auroc:
        worst = min(without, key=lambda name: _value(without[name]))
        sentences.append(
            f"Features: the logistic hazard ({logistic.auroc.text()}) loses most {worst} ({without[worst].auroc.text()}). "
            + _told_more(parts[TOLD_CELL])
        )
    if (few := found.learning[min(found.learning)]).auroc and found.methods[PROPOSED].auroc:
        sentences.append(
            f"Data: from {percent(min(found.learning))} to all of the training prompts the AUROC goes from "
            f"{few.auroc.text()} to {found.methods[PROPOSED].auroc.text()}."
        )
    for kind, prefix in (("Tasks", "all seen, "), ("Presses, none of them seen", "press never seen: ")):
        ranked = sorted(
            (
                (name.removeprefix(prefix).removesuffix(" only"), one)
                for name, one in found.elsewhere.items()
                if name.startswith(prefix) and one.auroc
            ),
            key=lambda pair: _value(pair[1]),
        )
        if len(ranked) > 1:
            (low, first), (high, last) = ranked[0], ranked[-1]
            sentences.append(f"{kind}: worst {low} ({first.auroc.text()}), best {high} ({last.auroc.text()}).")
    failed = found.risk.runs["failed"].to_numpy()
    early = np.percentile(found.risk.runs["time"].to_numpy()[failed], [25, 50, 75])
    sentences.append(
        f"Time: failures begin at token {early[1]:.0f} (median; quartiles {early[0]:.0f} and {early[2]:.0f}), a loop with the "
        "first token of what will be repeated, before any repetition."
    )
    return sentences


def _told_more(one: TokenMetrics) -> str:
    return "" if one.auroc is None else f"Told the share removed and the press as well it reaches {one.auroc.text()}."


def _value(one: TokenMetrics | None) -> float:
    return np.nan if one is None or one.auroc is None else one.auroc.value


def _compared(one: Estimate, other: Estimate) -> str:
    """By their intervals, which are not of the difference: so only a large one is called one."""
    if None not in (one.low, other.low):
        if one.low > other.high:
            return "more than"
        if one.high < other.low:
            return "fewer than"
    return "not clearly more or fewer than"


def control_sentence(found: Study) -> str:
    """What the predictor knows when outcomes are shuffled between runs."""
    same, everything = (
        [one.value for each in found.control if (one := getattr(each, kind)) is not None]
        for kind in ("auroc_same_token", "auroc")
    )
    if len(same) < 2:
        return "The shuffled outcomes leave nothing to tell apart."
    middle = np.mean(same)
    half = t.ppf(0.975, len(same) - 1) * np.std(same, ddof=1) / np.sqrt(len(same))
    verdict = "holds 0.5, as it must" if middle - half <= 0.5 <= middle + half else "does not hold 0.5"
    return (
        f"With outcomes shuffled between runs, {len(same)} times, the AUROC over pairs at the same token is {middle:.2f} "
        f"[{middle - half:.2f}, {middle + half:.2f}] on average (t interval over shuffles; from {min(same):.2f} to "
        f"{max(same):.2f}): it {verdict}. Over all pairs it is {np.mean(everything):.2f}, since a shuffled failure still comes "
        "at a token where failures come."
    )
