"""Answers, by the conventions of lm-evaluation-harness's GSM8K task.

strict-match takes the number after ``####``; flexible-extract takes the last number-like match anywhere
(https://github.com/EleutherAI/lm-evaluation-harness, ``lm_eval/tasks/gsm8k``). ``,``, ``$`` and a trailing
``.`` are dropped. One difference: numbers are compared as numbers, so ``$18.00`` answers 18, where the
harness compares strings.

Where the right answer is no number, strict-match takes the rest of the line after ``####``, and
flexible-extract the last line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

from kvhelpers.records import Answer

STRICT_TEXT = re.compile(r"####[ \t]*(\S[^\n]*)")
STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")


def is_right(value: str | None, reference: str) -> bool:
    """Whether an extracted value equals the reference, as a number if that is one; None, no value, does
    not.
    """
    if value is None or not is_number(reference):
        return value == reference
    return _number(value) == _number(reference)


def is_number(text: str) -> bool:
    """Whether a right answer is a number."""
    return _number(text) is not None


def extract_answer(text: str, stop_strings: Sequence[str] = (), numeric: bool = True) -> Answer:
    """Find the answer in a generated text, looking no further than the first stop string."""
    for stop in stop_strings:
        text = text.split(stop, 1)[0]
    strict, flexible = _numbers_in(text) if numeric else _texts_in(text)
    decided_by = "flexible-extract" if flexible is not None else None
    return Answer(
        strict=strict,
        flexible=flexible,
        decided_by="strict-match" if strict is not None else decided_by,
    )


def _numbers_in(text: str) -> tuple[str | None, str | None]:
    strict, flexible = STRICT.search(text), FLEXIBLE.findall(text)
    return (
        clean(strict.group(1)) if strict else None,
        clean(next(filter(None, flexible[-1]))) if flexible else None,
    )


def _texts_in(text: str) -> tuple[str | None, str | None]:
    strict, lines = STRICT_TEXT.search(text), text.split("\n")
    flexible = next((line.strip() for line in reversed(lines) if line.strip()), None)
    return strict.group(1).strip() if strict else None, flexible


def clean(number: str) -> str:
    """Drop thousands separators, dollar signs and one trailing full stop."""
    return number.replace(",", "").replace("$", "").removesuffix(".")


def _number(text: str) -> Decimal | None:
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    return value if value.is_finite() else None
