"""Is this setting safe? Two sets of answers to the same prompts, ours or any engine's, and one verdict.

Three outcomes are judged: *right*; *right in its format* (what a strict reader finds, where that is known);
*broken* (a loop, an answer without end, an empty one, thoughts never left). Each is compared prompt by
prompt, with Tango's 95 % interval of the difference:

=========  =================================================================================================
worse      an outcome is worse: its whole interval lies on the bad side of 0, the estimate is the margin or
           more, and McNemar's exact test holds beside the other outcomes' (q < .05)
safe       every outcome's interval ends before a loss of the margin; or more answers are right, with the
           whole interval, and no outcome's estimate is a loss of the margin
undecided  else; also where the base is right too rarely for a loss of the margin to be seen
=========  =================================================================================================

How often fewer prompts contradict more of them: ``benchmarks/check_verdicts.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kvhelpers.compare.answer_sets import CONDITION, HARNESS, AnswerSet, text_loop
from kvhelpers.errors import InputError, shown
from kvhelpers.scoring.flags import baseline_is_weak
from kvhelpers.stats import SIGNIFICANCE, adjusted, compare_counts, score_interval

SAFE, WORSE, UNDECIDED = "safe", "worse", "undecided"
EXIT_CODES = {SAFE: 0, WORSE: 1, UNDECIDED: 3}
MARGIN = 0.05
RIGHT, FORMAT, BROKEN = "right", "right in its format", "broken"
LOOPS, ENDLESS, EMPTY, THINKING = "loops", "does not end", "empty", "never leaves thinking"
COLUMNS = {RIGHT: "correct", FORMAT: "strict", BROKEN: "broken", LOOPS: "looping", ENDLESS: "endless"}
COLUMNS |= {EMPTY: "empty", THINKING: "never_left"}
LONGER = "twice as long as the other, or longer"
JUDGED = (RIGHT, FORMAT, BROKEN)
GOOD = (RIGHT, FORMAT)
SIDES = ("_base", "_other")  # columns of both answers
DIFFERS = {
    "doc_hash": "another task, split or version of it",
    "prompt_hash": "other worked examples, chat template or instruction",
    "target_hash": "other right answers",
}
POWER_Z = 0.8416  # of the normal distribution, for a chance of 80 %
MOST_PROMPTS = 20_000  # above, no number is named
Z2 = 1.959963984540054**2


@dataclass(frozen=True)
class Check:
    """A verdict, and how it was reached.

    ``outcomes`` has a row per outcome: runs of ``base`` and ``other`` that have it, of how many prompts
    ``only_base`` and ``only_other``, the ``difference`` (other minus base) with its 95 % interval, McNemar's
    ``p``, and the ``verdict`` of those that are judged. ``answers`` has a row per prompt, both answers side
    by side. ``needed`` is how many prompts would decide in four of five cases, if the rates are what they
    look like; None where it is decided, or no number would.
    """

    verdict: str
    reason: str
    needed: int | None
    margin: float
    base: AnswerSet
    other: AnswerSet
    outcomes: pd.DataFrame
    answers: pd.DataFrame
    notes: tuple[str, ...]

    @property
    def unit(self) -> str:
        """What lengths and onsets are counted in: new tokens where both sets say, else words."""
        return self.answers.attrs["unit"]


def check(base: AnswerSet, other: AnswerSet, margin: float = MARGIN) -> Check:
    """Compare two sets of answers to the same prompts; ``margin`` is the loss that does not matter, a share.

    Raises
    ------
    InputError : sets that do not belong together, by naming what differs.
    """
    answers, unknown = paired(base, other)
    n, known = len(answers), outcomes(answers)
    table = _table(answers, known)
    counted = changes(known)
    right = int(answers["correct_base"].sum())
    verdict, each = decide(counted, n, right, margin)
    reason = _reason(verdict, each, counted, n, right, margin)
    prompts = needed(counted, n, right, margin) if verdict == UNDECIDED else None
    if verdict == SAFE and (flagged := [one for one in (base, other) if one.flags]):
        verdict = UNDECIDED
        reason = f"{flagged[0].name} shows nothing of its setting, by its flags ({flagged[0].flags})"
    table["verdict"] = table["outcome"].map(each)
    if missing := [name for name in COLUMNS if name != THINKING and name not in set(table["outcome"])]:
        unknown.append(f"not known of both sets, so not compared: {', '.join(missing)}")
    notes = (*base.notes, *other.notes, *unknown, *_differing(base, other))
    return Check(verdict, reason, prompts, margin, base, other, table, answers, notes)


def margin_share(margin: float) -> float:
    """A margin in points as a share. Raises InputError unless it is above 0 and at most 50."""
    if not 0 < margin <= 50:
        raise InputError(f"margin {shown(margin)} is not allowed: it is above 0 and at most 50 points")
    return margin / 100


def outcomes(answers: pd.DataFrame) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The outcomes of `paired` answers that are known of all, in base and other, each ``[prompts]``."""
    both = {name: [answers[column + side] for side in SIDES] for name, column in COLUMNS.items()}
    known = {name: pair for name, pair in both.items() if all(one.notna().all() for one in pair)}
    return {name: tuple(one.to_numpy(bool) for one in pair) for name, pair in known.items()}


def changes(known: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, tuple[int, int]]:
    """On how many prompts each judged outcome is worse in the other set, and better; a format that no answer
    has is not judged.
    """
    counted = {}
    for name in JUDGED:
        if name in known and (name != FORMAT or np.any(known[name])):
            before, after = known[name]
            both = int((before & ~after).sum()), int((after & ~before).sum())
            counted[name] = both if name in GOOD else both[::-1]
    return counted


def decide(
    changes: Mapping[str, tuple[int, int]], n: int, right: int, margin: float = MARGIN
) -> tuple[str, dict[str, str]]:
    """The verdict, and that of each outcome, from how many of ``n`` prompts it is worse and better in the
    other set; the base is ``right`` in so many. Without the outcome `RIGHT` nothing is safe.
    """
    tests = adjusted([compare_counts(worse, better, n).p for worse, better in changes.values()])
    each, ends, gains = {}, {}, {}
    for (name, (worse, better)), q in zip(changes.items(), tests, strict=True):
        low, high = ends[name] = score_interval(worse, better, n)
        gains[name] = (better - worse) / n
        lost = high < 0 and gains[name] <= -margin and q < SIGNIFICANCE
        each[name] = WORSE if lost else SAFE if low > -margin else UNDECIDED
    if WORSE in each.values():
        return WORSE, each
    if RIGHT not in changes:
        return UNDECIDED, each
    more_right = ends[RIGHT][0] > 0
    if _is_weak(right, n, margin) and not more_right:
        each[RIGHT] = UNDECIDED
    within = all(gain > -margin for gain in gains.values())
    safe = set(each.values()) == {SAFE} or (more_right and within)
    return SAFE if safe else UNDECIDED, each


def _is_weak(right: int, n: int, margin: float) -> bool:
    """Whether the loss of all that is right would stay within the margin, or could not be significant."""
    return baseline_is_weak(right) or right <= margin * n


def needed(changes: Mapping[str, tuple[int, int]], n: int, right: int, margin: float = MARGIN) -> int | None:
    """How many prompts would decide in four of five cases, if each outcome's rates are what they look like;
    None where no number up to `MOST_PROMPTS` does, or the base is right too rarely.

    The usual formula for a difference of paired rates, from the share of discordant prompts: one that looks
    like a loss of the margin or more must be told from 0, any other one from a loss of the margin.
    """
    if RIGHT not in changes:
        return None
    to_worse, to_safe = [], []
    for worse, better in changes.values():
        gain, discordant = (better - worse) / n, (better + worse + 1) / (n + 1)
        variance, beyond = discordant - gain**2, abs(gain + margin)
        if gain <= -margin:  # both the test and the estimate must hold again
            errors = max((math.sqrt(Z2) + POWER_Z) / -gain, POWER_Z / max(beyond, 1e-9))
            to_worse.append(variance * errors**2)
        else:
            errors = (math.sqrt(Z2) + POWER_Z) / max(beyond, 1e-9)
            to_safe.append(max(variance * errors**2, Z2 * (1 - margin) / margin))
    most = max(min(to_worse) if to_worse else max(to_safe), n + 1)
    if most > MOST_PROMPTS or (not to_worse and _is_weak(right, n, margin)):
        return None
    step = 10 ** max(1, len(str(int(most))) - 2)  # more than two digits it is not worth
    return math.ceil(most / step) * step


def _reason(
    verdict: str, each: Mapping[str, str], changes: Mapping, n: int, right: int, margin: float
) -> str:
    def told(name: str) -> str:
        worse, better = changes[name]
        both = (better - worse) / n, *score_interval(worse, better, n)
        both = both if name in GOOD else (-both[0], -both[2], -both[1])
        return f"{name} {points(*both)} points"

    width = f"{100 * margin:g} points"
    if verdict == WORSE:
        lost = [told(name) for name, one in each.items() if one == WORSE]
        return f"shown to be worse, by {width} or more in the estimate: {'; '.join(lost)}"
    if verdict == SAFE and set(each.values()) != {SAFE}:
        return f"more answers are right ({told(RIGHT)}), and nothing else looks worse by {width}"
    if verdict == SAFE:
        return f"a loss of {width} is ruled out: {'; '.join(map(told, changes))}"
    if RIGHT not in changes:
        return "which answers are right is not known, so that none can be shown to be safe"
    if WORSE not in each.values() and _is_weak(right, n, margin):
        return (
            f"the base is right in {right} of {n}: too few for a loss of {width} to be seen; take a task "
            "that the model solves more often"
        )
    open_ones = [told(name) for name, one in each.items() if one == UNDECIDED]
    return f"neither a loss nor its absence is shown: {'; '.join(open_ones)}, beside a margin of {width}"


def paired(base: AnswerSet, other: AnswerSet) -> tuple[pd.DataFrame, list[str]]:
    """Both answers to each prompt, in the order of the base, columns with ``_base`` and ``_other``; and what
    could not be compared.

    Raises
    ------
    InputError : the sets do not belong together; it names what differs.
    """

    def refuse(what: str) -> InputError:
        return InputError(f"{base.name} and {other.name} do not belong together: {what}")

    if {base.kind, other.kind} == {CONDITION, HARNESS}:
        raise refuse(
            "one is a condition of this package, the other a file of lm-evaluation-harness, whose prompts "
            "have other hashes; give the samples_*.jsonl that lie in the folder harness/ of the condition"
        )
    for what in (key for key in base.must if key in other.must):
        here, there = base.must[what], other.must[what]
        if here != there:
            raise refuse(f"{what} is {shown(here)} in the first and {shown(there)} in the second")
    known = [name for name in DIFFERS if name in base.answers and name in other.answers]
    hashes = known if base.kind == other.kind else []
    both = _by_content(base, other, hashes) if base.kind == other.kind == HARNESS else None
    if both is None:
        both = base.answers.merge(other.answers, on="id", suffixes=SIDES)
        for name in hashes:
            if n := int((both[name + SIDES[0]] != both[name + SIDES[1]]).sum()):
                raise refuse(f"{n} of {len(both)} common prompts differ in {name} ({DIFFERS[name]})")
        for one, more in ((base, other), (other, base)):
            lacking = more.answers["id"][~more.answers["id"].isin(one.answers["id"])]
            if len(lacking):
                raise refuse(
                    f"{one.name} lacks {len(lacking)} of the {len(more.answers)} prompts of {more.name}, the "
                    f"first of them {shown(lacking.iloc[0])}"
                )
    unknown = sorted(set(base.must) ^ set(other.must))
    notes = [f"not compared, since one set does not say: {', '.join(unknown)}"] if unknown else []
    if not hashes:
        notes.append("prompts were not compared, only their ids")
    return _measured(both, base, other), notes


def _by_content(base: AnswerSet, other: AnswerSet, hashes: list[str]) -> pd.DataFrame | None:
    """Pairs by hashes, since the same documents may have other numbers; those that occur more than once keep
    their order. None where some have no twin.
    """
    keyed = []
    for one in (base, other):
        answers = one.answers.sort_values("id", key=lambda ids: ids.str.zfill(12), kind="stable")
        keyed.append(answers.assign(copy=answers.groupby(hashes).cumcount()))
    both = keyed[0].merge(keyed[1].drop(columns="id"), on=[*hashes, "copy"], suffixes=SIDES)
    return both if len(both) == len(base.answers) == len(other.answers) else None


def _measured(both: pd.DataFrame, base: AnswerSet, other: AnswerSet) -> pd.DataFrame:
    """With loops by the same rule in both sets, lengths in the same unit, and what is broken."""
    by_tokens = all(one.answers["looping"].notna().all() for one in (base, other))
    counted = by_tokens and all(one.answers["tokens"].notna().all() for one in (base, other))
    for side in SIDES:
        texts = both["text" + side]
        if not by_tokens:
            found = [text_loop(text) for text in texts]
            both["looping" + side] = [one is not None for one in found]
            both["onset_char" + side] = pd.array(found, dtype="Int64")
            words = [
                pd.NA if at is None else len(text[:at].split()) for text, at in zip(texts, found, strict=True)
            ]
            both["onset" + side] = pd.array(words, dtype="Int64")
            both["loop_left" + side] = False
        both["length" + side] = both["tokens" + side] if counted else [len(text.split()) for text in texts]
        both["empty" + side] = texts.str.strip() == ""
        parts = both["looping" + side].astype(bool) & ~both["loop_left" + side].astype(bool)
        for name in ("endless", "never_left"):
            parts |= both[name + side].fillna(False).astype(bool)
        both["broken" + side] = parts | both["empty" + side]
    both.attrs["unit"] = "tokens" if counted else "words"
    both.attrs["loops"] = "token ids" if by_tokens else "text"
    return both


def _table(answers: pd.DataFrame, known: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> pd.DataFrame:
    """The outcomes with their differences, and how many answers are much longer."""
    here, there = (answers["length" + side].to_numpy(float) for side in SIDES)
    longer = (here >= 2 * there) & (here > 0), (there >= 2 * here) & (there > 0)
    rows = []
    for name, (before, after) in [*known.items(), (LONGER, longer)]:
        only = int((before & ~after).sum()), int((after & ~before).sum())
        one = compare_counts(*only, len(answers))
        low, high = score_interval(*only, len(answers))
        counts = {"base": int(before.sum()), "other": int(after.sum()), "n": one.n}
        counts |= {"only_base": only[0], "only_other": only[1], "difference": one.difference}
        rows.append({"outcome": name} | counts | {"low": low, "high": high, "p": one.p})
    return pd.DataFrame(rows)


def _differing(base: AnswerSet, other: AnswerSet) -> list[str]:
    """What differs besides, for the reader to judge."""
    return [
        f"{name}: {base.about.get(name, 'not known')} → {other.about.get(name, 'not known')}"
        for name in {**base.about, **other.about}
        if base.about.get(name) != other.about.get(name)
    ]


def points(difference: float, low: float, high: float) -> str:
    """``−4.0 [−9.1, +1.2]``: a difference of shares in percentage points, with its interval."""
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * x + 0.0 for x in (difference, low, high))).replace(
        "-", "−"
    )
