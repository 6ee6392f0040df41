"""Conditions against each other on the same prompts: every compressed one against the uncompressed one, the
pairs an experiment file names, and the pairs at the same ratio or budget.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from kvhelpers.experiment.grid import Contrast
from kvhelpers.experiment.results import ConditionResult, find_baseline
from kvhelpers.records import Record
from kvhelpers.stats import (
    POWER,
    SIGNIFICANCE,
    Comparison,
    adjusted,
    compare_counts,
    detectable_drop,
    fewest_discordant,
)

GAINED = 0.05  # share of prompts mended, in the second statement of power

Outcome = Callable[[Record], bool]


class Verdict(StrEnum):
    """What a test says of the second condition against the first."""

    HIGHER = "higher"
    LOWER = "lower"
    NO_EVIDENCE = "no evidence"


@dataclass(frozen=True)
class Tested:
    """A comparison with its q-value among the tests that are read together."""

    comparison: Comparison
    q: float

    @property
    def verdict(self) -> Verdict:
        if self.q >= SIGNIFICANCE:
            return Verdict.NO_EVIDENCE
        return Verdict.HIGHER if self.comparison.difference > 0 else Verdict.LOWER


@dataclass(frozen=True)
class AgainstBaseline:
    """A compressed condition against the uncompressed one: its accuracy, and how often it never ends."""

    result: ConditionResult
    accuracy: Tested
    never_ends: Tested


@dataclass(frozen=True)
class TestedContrast:
    """A contrast of an experiment file: the first condition against the second, which is the one compared
    with.
    """

    contrast: Contrast
    first: ConditionResult
    second: ConditionResult
    looping: Tested
    accuracy: Tested

    __test__ = False  # no test, whatever its name begins with


@dataclass(frozen=True)
class LoopingPair:
    """Two compressed conditions at the same ratio or budget, and how often the second loops against the
    first.
    """

    first: ConditionResult
    second: ConditionResult
    tested: Tested


@dataclass(frozen=True)
class FirstDrop:
    """A press with its own ``fields``, and the ``first`` of its conditions, from most to fewest kept tokens,
    whose accuracy is lower than without compression; None if none is.
    """

    press: str
    fields: str
    first: ConditionResult | None


@dataclass(frozen=True)
class Power:
    """What McNemar's exact test on ``n`` prompts can see, before a correction for many tests.

    ``fewest`` prompts must change, all in one direction, for p < .05. ``drop`` is the smallest true drop
    found with this ``power`` if compression mends no prompt, ``drop_if_gained`` if it mends the share
    ``gained`` of them; None: not even the loss of all.
    """

    n: int
    fewest: int
    drop: float | None
    drop_if_gained: float | None
    gained: float = GAINED
    power: float = POWER


@dataclass(frozen=True)
class Comparisons:
    """All comparisons of an experiment; ``power`` is None where nothing can be compared with the baseline.

    ``against_baseline`` in the order of the conditions. ``missing`` are contrasts of which a condition is not
    finished.
    """

    against_baseline: list[AgainstBaseline]
    contrasts: list[TestedContrast]
    missing: list[Contrast]
    looping_pairs: list[LoopingPair]
    power: Power | None

    @property
    def accuracy(self) -> list[tuple[ConditionResult, Tested]]:
        """Each compressed condition's accuracy against the uncompressed one."""
        return [(against.result, against.accuracy) for against in self.against_baseline]

    @property
    def never_ends(self) -> list[tuple[ConditionResult, Tested]]:
        """How often each compressed condition never ends, against the uncompressed one."""
        return [(against.result, against.never_ends) for against in self.against_baseline]

    @property
    def while_decoding(self) -> list[tuple[ConditionResult, Tested]]:
        """The accuracy of conditions whose caches are cut again while decoding."""
        return [pair for pair in self.accuracy if pair[0].cuts_while_decoding]

    @property
    def first_drops(self) -> list[FirstDrop]:
        """Where each press first costs accuracy that can be seen, in the order of the presses; without the
        conditions of `while_decoding`, which the prefill's kept tokens do not describe.
        """
        groups: dict[tuple[str, str], list[AgainstBaseline]] = {}
        for against in self.against_baseline:
            condition = against.result.condition
            if against.result.summary.kept_tokens is not None and not against.result.cuts_while_decoding:
                groups.setdefault((condition.press, condition.fields), []).append(against)
        drops = []
        for (press, fields), members in groups.items():
            lower = [member.result for member in members if member.accuracy.verdict == Verdict.LOWER]
            first = max(lower, key=lambda result: result.summary.kept_tokens, default=None)
            drops.append(FirstDrop(press, fields, first))
        return drops

    @property
    def looping_differences(self) -> list[LoopingPair]:
        """The pairs that differ in looping: valid ones first, the largest difference first."""
        differ = [pair for pair in self.looping_pairs if pair.tested.verdict != Verdict.NO_EVIDENCE]

        def rank(pair: LoopingPair) -> tuple[bool, float]:
            valid = not (pair.first.is_invalid or pair.second.is_invalid)
            return not valid, -abs(pair.tested.comparison.difference)

        return sorted(differ, key=rank)


def is_correct(record: Record) -> bool:
    """The run gave the right answer."""
    return record.correct


def never_ends(record: Record) -> bool:
    """The run loops or does not terminate."""
    return record.failures.looping or record.failures.non_termination


def loops(record: Record) -> bool:
    """The run loops."""
    return record.failures.looping


def compare(first: ConditionResult, second: ConditionResult, outcome: Outcome) -> Comparison | None:
    """Compare an outcome of two conditions on their common prompts; None if they have none."""
    others = {record.prompt_id: outcome(record) for record in second.records}
    pairs = [
        (outcome(record), others[record.prompt_id]) for record in first.records if record.prompt_id in others
    ]
    if not pairs:
        return None
    return compare_counts(
        only_first=sum(a and not b for a, b in pairs),
        only_second=sum(b and not a for a, b in pairs),
        n=len(pairs),
    )


def compare_conditions(results: Sequence[ConditionResult], contrasts: Sequence[Contrast] = ()) -> Comparisons:
    """Compare an experiment's conditions."""
    against_baseline = compare_all(results)
    tested, missing = compare_contrasts(results, contrasts)
    n = against_baseline[0].accuracy.comparison.n if against_baseline else None
    return Comparisons(
        against_baseline, tested, missing, looping_pairs(results), None if n is None else find_power(n)
    )


def compare_all(results: Sequence[ConditionResult]) -> list[AgainstBaseline]:
    """All compressed conditions that share prompts with the uncompressed one of the same setting; q-values
    over all of them and both outcomes.
    """
    compressed = [result for result in results if not result.condition.is_baseline]
    pairs = [(find_baseline(results, result), result) for result in compressed]
    pairs = [pair for pair in pairs if pair[0] and compare(*pair, is_correct)]
    tested = _tested([(compare(*pair, is_correct), compare(*pair, never_ends)) for pair in pairs])
    return [AgainstBaseline(other, *of_pair) for (_, other), of_pair in zip(pairs, tested, strict=True)]


def compare_contrasts(
    results: Sequence[ConditionResult], contrasts: Sequence[Contrast]
) -> tuple[list[TestedContrast], list[Contrast]]:
    """The contrasts whose conditions share prompts, and those of which a condition is missing.

    q-values are over all contrasts and both outcomes.
    """
    by_label = {result.label: result for result in results}
    named = [
        (contrast, by_label.get(contrast.first), by_label.get(contrast.second)) for contrast in contrasts
    ]
    ready = [
        (contrast, first, second)
        for contrast, first, second in named
        if first and second and compare(first, second, loops)
    ]
    tested = _tested(
        [(compare(second, first, loops), compare(second, first, is_correct)) for _, first, second in ready]
    )
    missing = [contrast for contrast, first, second in named if first is None or second is None]
    return [TestedContrast(*of, *pair) for of, pair in zip(ready, tested, strict=True)], missing


def looping_pairs(results: Sequence[ConditionResult]) -> list[LoopingPair]:
    """All pairs of compressed conditions with the same ratio and budget and common prompts; q-values over all
    of them.
    """
    compressed = [result for result in results if not result.condition.is_baseline]
    pairs = [
        (first, second)
        for first, second in itertools.combinations(compressed, 2)
        if _amount(first) == _amount(second) and compare(first, second, loops)
    ]
    tested = _tested([(compare(first, second, loops),) for first, second in pairs])
    return [LoopingPair(*pair, *of_pair) for pair, of_pair in zip(pairs, tested, strict=True)]


def _amount(result: ConditionResult) -> tuple[float | None, int | None, str]:
    return result.condition.ratio, result.condition.budget, result.condition.setting


def _tested(comparisons: Sequence[tuple[Comparison, ...]]) -> list[tuple[Tested, ...]]:
    """The comparisons with q-values over all of them."""
    q = iter(adjusted([comparison.p for group in comparisons for comparison in group]))
    return [tuple(Tested(comparison, next(q)) for comparison in group) for group in comparisons]


def find_power(n: int) -> Power:
    """What a paired test on ``n`` prompts can see."""
    return Power(n, fewest_discordant(), detectable_drop(n), detectable_drop(n, GAINED))
