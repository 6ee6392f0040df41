"""Numeric answers, by the conventions of lm-evaluation-harness's GSM8K task.

strict-match takes the number after ``####``; flexible-extract takes the last number-like match anywhere
(https://github.com/EleutherAI/lm-evaluation-harness, ``lm_eval/tasks/gsm8k``). ``,``, ``$`` and a trailing
``.`` are dropped. One difference: numbers are compared as numbers, so ``$18.00`` answers 18, where the
harness compares strings.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

from kvhelpers.records import Answer

STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")


def is_right(value: str | None, reference: str) -> bool:
    """Whether an extracted value equals the reference as a number; None, no value, does not."""
    number = None if value is None else _number(value)
    return number is not None and number == _number(reference)


def extract_answer(text: str, stop_strings: Sequence[str] = ()) -> Answer:
    """Find the answer in a generated text, looking no further than the first stop string."""
    for stop in stop_strings:
        text = text.split(stop, 1)[0]
    strict = STRICT.search(text)
    flexible = FLEXIBLE.findall(text)
    return Answer(
        strict=clean(strict.group(1)) if strict else None,
        flexible=clean(next(filter(None, flexible[-1]))) if flexible else None,
        decided_by="strict-match" if strict else "flexible-extract" if flexible else None,
    )


def clean(number: str) -> str:
    """Drop thousands separators, dollar signs and one trailing full stop."""
    return number.replace(",", "").replace("$", "").removesuffix(".")


def _number(text: str) -> Decimal | None:
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    return value if value.is_finite() else None
