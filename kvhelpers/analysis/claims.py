"""What others found, beside the same numbers here.

A claim is reproduced, not reproduced or undecided by a 95 % interval. An effect below 10 points counts as
none, so that a claim can be contradicted as well as confirmed; the rules are in `judge_claim`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from kvhelpers.analysis.analyse import Analysis
from kvhelpers.analysis.comparisons import compare, is_correct, loops
from kvhelpers.analysis.entropy_alarms import Direction
from kvhelpers.experiment.grid import Claim, ClaimKind
from kvhelpers.experiment.results import ConditionResult, find_baseline
from kvhelpers.stats import wilson

NEGLIGIBLE = 0.10


class ClaimVerdict(StrEnum):
    """What this experiment says of a claim."""

    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not reproduced"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Measure:
    """A share, or a difference of shares, with its 95 % interval and the prompts or loops behind it."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class JudgedClaim:
    """A claim with what was measured here; ``measure`` is None where there is nothing to measure."""

    claim: Claim
    measure: Measure | None
    verdict: ClaimVerdict


def judge_claims(
    claims: Sequence[Claim], results: Sequence[ConditionResult], analysis: Analysis
) -> list[JudgedClaim]:
    """Judge all claims of an experiment file."""
    by_label = {result.label: result for result in results}
    return [judge_claim(claim, by_label, analysis) for claim in claims]


def judge_claim(claim: Claim, results: Mapping[str, ConditionResult], analysis: Analysis) -> JudgedClaim:
    """Judge a claim about the conditions ``first`` and, for some kinds, ``second``.

    survives: accuracy of first minus the uncompressed one; reproduced above −10 points, not below.
    collapses: accuracy of first; reproduced below 10 %, not reproduced above.
    loops more: looping of first minus that of second; reproduced above 0, not reproduced below 10 points.
    more entropy: share of prompts whose largest entropy is larger under first than under second; reproduced
    above 50 %, not reproduced below 60 %.
    warns: how much more often high entropy comes before a loop than in comparable runs, see
    `entropy_alarms`; reproduced above 0, not reproduced below 10 points.

    Each holds if it does for the whole interval; undecided if neither does, or nothing can be measured.
    """
    first, second = results.get(claim.first), results.get(claim.second)
    measured = _measure(claim.kind, first, second, list(results.values()), analysis)
    if measured is None:
        return JudgedClaim(claim, None, ClaimVerdict.UNDECIDED)
    above, below = {
        ClaimKind.SURVIVES: (-NEGLIGIBLE, -NEGLIGIBLE),
        ClaimKind.COLLAPSES: (NEGLIGIBLE, NEGLIGIBLE),
        ClaimKind.LOOPS_MORE: (0.0, NEGLIGIBLE),
        ClaimKind.MORE_ENTROPY: (0.5, 0.5 + NEGLIGIBLE),
        ClaimKind.WARNS: (0.0, NEGLIGIBLE),
    }[claim.kind]
    is_above, is_below = measured.low > above, measured.high < below
    if claim.kind == ClaimKind.COLLAPSES:
        is_above, is_below = is_below, is_above
    verdict = ClaimVerdict.UNDECIDED
    if is_above:
        verdict = ClaimVerdict.REPRODUCED
    elif is_below:
        verdict = ClaimVerdict.NOT_REPRODUCED
    return JudgedClaim(claim, measured, verdict)


def _measure(
    kind: ClaimKind,
    first: ConditionResult | None,
    second: ConditionResult | None,
    results: Sequence[ConditionResult],
    analysis: Analysis,
) -> Measure | None:
    if kind == ClaimKind.WARNS:
        alarms = analysis.alarms[Direction.HIGH]
        excess = alarms.excess if alarms else None
        if excess is None or excess.low is None:
            return None
        return Measure(excess.value, excess.low, excess.high, excess.n)
    if first is None:
        return None
    if kind == ClaimKind.COLLAPSES:
        rate = first.summary.accuracy
        return Measure(rate.rate, rate.low, rate.high, rate.n)
    if kind == ClaimKind.MORE_ENTROPY:
        return second and _larger_entropy(first, second)
    other = find_baseline(results, first) if kind == ClaimKind.SURVIVES else second
    outcome = is_correct if kind == ClaimKind.SURVIVES else loops
    tested = other and compare(other, first, outcome)
    return tested and Measure(tested.difference, tested.low, tested.high, tested.n)


def _larger_entropy(first: ConditionResult, second: ConditionResult) -> Measure | None:
    largest = []
    for result in (first, second):
        by_prompt = result.signals(["prompt_index", "entropy"]).groupby("prompt_index")["entropy"].max()
        ids = {record.prompt_index: record.prompt_id for record in result.records}
        largest.append({ids[index]: value for index, value in by_prompt.items()})
    common = largest[0].keys() & largest[1].keys()
    if not common:
        return None
    rate = wilson(sum(largest[0][prompt] > largest[1][prompt] for prompt in common), len(common))
    return Measure(rate.rate, rate.low, rate.high, rate.n)
