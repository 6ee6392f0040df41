r"""Answers: what lm-evaluation-harness's GSM8K task extracts, and what is judged here.

strict-match takes the number after ``####``; flexible-extract takes the last number-like match anywhere
(https://github.com/EleutherAI/lm-evaluation-harness, ``lm_eval/tasks/gsm8k``). ``,``, ``$`` and a trailing
``.`` are dropped. Both are noted as the harness finds them.

What is judged is the number right behind the first ``####`` that has one; else what the last ``\boxed{}``
holds, which is right only if it is a number, with a unit or without; else the last number. ``..`` is no
number, ``−8`` with a typographic minus is a negative one, ``1{,}234`` is 1234, ``\frac{5}{6}`` is 5/6,
``10%`` is 10, ``8 million`` is 8000000, of ``6 + 2 = 8`` the result counts, and of ``8 = 6 + 2`` the first
number. Numbers are compared as numbers, so ``$18.00`` answers 18, where the harness compares strings.

Where the right answer is no number, the rest of the line after ``####`` is judged, or else the last line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from kvhelpers.records import Answer

STRICT_TEXT = re.compile(r"####[ \t]*(\S[^\n]*)")
STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
MINUS = str.maketrans(dict.fromkeys("−–‑﹣－", "-"))
DIGITS = r"(?:[0-9](?:(?:,|\{,\})?[0-9])*(?:\.[0-9]+)?|\.[0-9]+)"
NUMBER = re.compile(rf"(?:(?<![\w)\]}}])-)?\$?(?<![0-9.]){DIGITS}(?:/{DIGITS})?(?![.,]?[0-9])")
# a word, or a letter that is a unit where others are variables
UNIT = re.compile(r"[\s~]*(?:%|(?:[^\W\d_]{2}|[ACFghJKlLmNsVW]\b)[^=+*^0-9\\]*(?:\^[23])?)?[\s.)\]]*")
SCALES = {"thousand": 3, "million": 6, "billion": 9}
SCALED = re.compile(rf"({DIGITS})[\s~]*({'|'.join(SCALES)})\b", re.IGNORECASE)
OPERATOR = re.compile(r"\s*[-+*/×÷·]\s*[($]*[0-9.]")  # behind a number: it is not the answer but a part of it
MIXED = re.compile(r"([0-9]+)\s*\\[dt]?frac\{([0-9]+)\}\{([0-9]+)\}")
APART = re.compile(r"^([\s:(*_]*)-\s+(?=\$?[0-9.])")  # a minus and its number
FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
SHORT_FRACTION = re.compile(r"\\([dt]?)frac\s*([0-9])\s*([0-9])")
IN_PROSE = rf"{MIXED.pattern}|{SHORT_FRACTION.pattern}|\\[dt]?frac\{{{DIGITS}\}}\{{{DIGITS}\}}"
LAST = re.compile(rf"-?(?:{IN_PROSE})|{NUMBER.pattern}(?:[\s~]*(?:{'|'.join(SCALES)})\b)?", re.IGNORECASE)
WORDS = re.compile(r"\\(?:text|math)\w*\s*\{([^{}]*)\}(?:\^\{?[0-9]\}?)?")  # ``\text{ m}^2``
MARKS = re.compile(r"\^\{?\\circ\}?|\\\W|[{}$]")  # of LaTeX


class Judged(NamedTuple):
    """What is judged of a text, by which rule it was found (both None: nothing), and the characters before
    it.
    """

    value: str | None = None
    decided_by: str | None = None
    start: int | None = None


def is_right(value: str | None, reference: str) -> bool:
    """Whether an extracted value equals the reference, as a number if that is one; None, no value, does
    not.
    """
    if value is None or not is_number(reference):
        return value == reference
    return _number(value) == _number(reference)


def is_number(text: str) -> bool:
    """Whether a right answer is a number."""
    return "/" not in text and _number(text) is not None


def extract_answer(text: str, stop_strings: Sequence[str] = (), numeric: bool = True) -> Answer:
    """Find the answer in a generated text, looking no further than the first stop string."""
    for stop in stop_strings:
        text = text.split(stop, 1)[0]
    strict, flexible = _numbers_in(text) if numeric else _texts_in(text)
    found = _judged_number(text) if numeric else _judged_text(text, strict, flexible)
    return Answer(strict=strict, flexible=flexible, **found._asdict())


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


def _judged_number(text: str) -> Judged:
    text = text.translate(MINUS)
    for line in re.finditer(r"####+([^\n]*)", text):
        if number := NUMBER.match(_result(_plain(line.group(1)), r"^[^A-Za-z]*=")):
            return Judged(clean(number.group()), "strict-match", line.start())
    for box in [box for box in BOXED.finditer(text) if box.group(1).strip()][-1:]:
        result = _result(_plain(box.group(1)), r"^.*=").strip()
        number = NUMBER.match(result)
        whole = number and UNIT.fullmatch(result, number.end())
        return Judged(clean(number.group()) if whole else box.group(1).strip(), "boxed", box.start())
    for number in [*LAST.finditer(text)][-1:]:
        return Judged(clean(_plain(number.group())), "flexible-extract", number.start())
    return Judged()


def _result(text: str, before: str) -> str:
    """The text from the number on that answers: the first one, if it stands alone or on one side of an
    equation; else what is behind ``before``, an expression up to its last equals sign.
    """
    text = APART.sub(r"\1-", text).lstrip(" \t:([*_")
    first = NUMBER.match(text)
    expression = first and ("/" in first.group() or OPERATOR.match(text, first.end()))
    if first and not (expression and "=" in text):
        return re.sub(r"^([^=]*[^=\s])\s*=.*", r"\1", text)
    return APART.sub(r"\1-", re.sub(before, "", text)).lstrip(" \t:([*_")


def _judged_text(text: str, strict: str | None, flexible: str | None) -> Judged:
    if strict is not None:
        return Judged(strict, "strict-match", STRICT_TEXT.search(text).start())
    return Judged() if flexible is None else Judged(flexible, "flexible-extract", text.rindex(flexible))


def _plain(text: str) -> str:
    """Without LaTeX's marks around numbers and words."""
    text = SHORT_FRACTION.sub(r"\\\1frac{\2}{\3}", text.replace("{,}", ","))
    text = MIXED.sub(lambda m: f"{int(m[1]) * int(m[3]) + int(m[2])}/{m[3]}", text)
    text = SCALED.sub(lambda m: f"{Decimal(clean(m[1])).scaleb(SCALES[m[2].lower()]):f}", text)
    return MARKS.sub("", WORDS.sub(r" \1", FRACTION.sub(r"\1/\2", text)))


def clean(number: str) -> str:
    """Drop thousands separators, dollar signs and one trailing full stop."""
    return number.replace("{,}", "").replace(",", "").replace("$", "").removesuffix(".")


def _number(text: str) -> Decimal | None:
    over, slash, under = text.partition("/")
    try:
        value = Decimal(over) / Decimal(under) if slash else Decimal(over)
    except ArithmeticError:
        return None
    return value if value.is_finite() else None
