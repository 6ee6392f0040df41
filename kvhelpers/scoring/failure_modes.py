"""One failure mode per run, exclusive, in a stated order.

1. looping            a window of 20 tokens occurs at least 3 times, see `failures`; but not where the run
                      left the loop for the right answer
2. non-termination    the limit on tokens or time was reached
3. instruction amnesia   ended with a wrong answer to another problem than the one asked, see `is_amnesia`
4. reasoning corruption   ended with a wrong answer, but to the problem asked
5. correct

A run that stopped with an error has the mode *errored*: it says nothing about the model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from kvhelpers.records import Example, FailureMode, Record, StopReason

NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
WORD = re.compile(r"[^\W\d_]{3,}")
# words that any word problem may have: they do not tell one problem from another
ANY_PROBLEM = """
the and has have had how many much does did do are was were will would can could for from with his her hers
him she they their them its this that these those there then than but not all each every per more less total
altogether left number amount what when where which who some any into out over under after before now get gets
got buy buys bought find finds found give gives gave take takes took make makes made need needs cost costs
also only same one two three four five six seven eight nine ten first second day days week time times answer
question
"""
COMMON = frozenset(ANY_PROBLEM.split())


def failure_mode(record: Record, examples: Sequence[Example]) -> FailureMode:
    """The mode of a run; ``examples`` are the worked examples of its prompt.

    A record whose question was left out (`commands.sample`) carries the mode that only the question tells.
    """
    if record.stop_reason == StopReason.ERROR:
        return FailureMode.ERRORED
    if record.failures.looping and not record.failures.loop_left:
        return FailureMode.LOOPING
    if record.failures.non_termination:
        return FailureMode.NON_TERMINATION
    if not record.failures.wrong_answer:
        return FailureMode.CORRECT
    if record.mode is not None:
        return record.mode
    asked_another = is_amnesia(record.question, record.text, [example.question for example in examples])
    return FailureMode.AMNESIA if asked_another else FailureMode.CORRUPTION


def is_amnesia(question: str, text: str, examples: Sequence[str]) -> bool:
    """Whether an answer deals with another problem than the question.

    It does if it has none of the question's words; or none of its numbers and at most half of its words; or
    if it has an example's word that is not the question's, and altogether a larger share of that example's
    own words and numbers than of the question's own. Words are names and others of at least three letters,
    without a plural s and without those that any word problem may have. How well this agrees with readers:
    ``data/labels/README.md``.
    """
    asked_words, asked_numbers = words(question), numbers(question)
    told_words, told_numbers = words(text), numbers(text)
    share = _share(asked_words, told_words)
    if not share or (share <= 0.5 and not asked_numbers & told_numbers):
        return True
    asked, told = asked_words | asked_numbers, told_words | told_numbers
    return any(
        (words(example) - asked_words) & told_words
        and _share(other - asked, told) > _share(asked - other, told)
        for example in examples
        for other in [words(example) | numbers(example)]
    )


def words(text: str) -> set[str]:
    """Distinctive words, lower case, without a plural s."""
    return {word.removesuffix("s") for word in WORD.findall(text.lower()) if word not in COMMON}


def numbers(text: str) -> set[str]:
    """Numbers in digits, without thousands separators."""
    return {number.replace(",", "").rstrip(".") for number in NUMBER.findall(text)}


def _share(wanted: set[str], told: set[str]) -> float:
    return len(wanted & told) / len(wanted) if wanted else 0.0
