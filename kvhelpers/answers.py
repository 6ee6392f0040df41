"""Answers that one can look at: side by side, each token shaded by its entropy, loop and alarm marked.

In a notebook they are HTML without scripts, in which every token is escaped and styles stand in each element,
since some viewers take style sheets away; elsewhere, plain text with the same marks.
"""

from __future__ import annotations

import itertools
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import pandas as pd

from kvhelpers.errors import InputError
from kvhelpers.records import Record

LOOP, ALARM, CUT = "⟦loop⟧", "⟦alarm⟧", "[…]"
FULL = 4.0  # nats; no shade is darker than that of this entropy
SHADES = (0, 1, 2, 3, 4)  # nats, in the legend
DARKEST = 0.8  # opacity
LINES = 40  # of a text
COLUMNS = ("step", "char_end", "entropy", "top1_prob")
NO_TEXT = "▯"  # a part of a character, or the end token
SHOWN_WHITE = {"\n": "↵\n", "\t": "→\t"}
SHOWN_AS_CODE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # categories that would act, or cannot be seen
CELL = "vertical-align: top; text-align: left; padding: 6px; color: #000; background-color: #fff; "
CELL += "border: 1px solid #ccc; "
TEXT = "white-space: pre-wrap; overflow-wrap: break-word; font-family: monospace"


@dataclass(frozen=True)
class ShownAnswer:
    """A run under its title.

    Parameters
    ----------
    title : such as the condition's label.
    record : the run.
    tokens : a row per new token with the columns `COLUMNS`.
    alarm : the new token, from 0, after which an alarm is raised; None where there is none.

    Raises
    ------
    InputError : a column is missing, or there are more or fewer rows than the run has tokens.
    """

    title: str
    record: Record
    tokens: pd.DataFrame
    alarm: int | None = None

    def __post_init__(self) -> None:
        for name in COLUMNS:
            if name not in self.tokens:
                raise InputError(f"tokens of {self.title!r} have no column {name!r}; they need {COLUMNS}")
        if len(self.tokens) != self.record.n_tokens:
            raise InputError(
                f"tokens of {self.title!r} are {len(self.tokens)}, its record has {self.record.n_tokens}"
            )

    @property
    def heading(self) -> str:
        """What is known of the run, in a line."""
        record, onset = self.record, self.record.onset
        certain = f", loop from token {onset} on, certain at {record.failures.loop_detected}"
        alarm = "" if self.alarm is None else f", alarm at token {self.alarm}"
        loop = "" if onset is None else certain
        return f"{record.n_tokens} tokens, stop reason {record.stop_reason}{loop}{alarm}"

    def text(self) -> str:
        """The text with its marks."""
        text, ends = self.record.text, self.tokens["char_end"]
        places = [] if self.record.onset is None else [(self.record.loop_onset_char, LOOP)]
        places += [] if self.alarm is None else [(int(ends.iloc[self.alarm]), ALARM)]
        for place, mark in sorted(places, reverse=True):
            text = text[:place] + mark + text[place:]
        return "\n".join("".join(map(_visible, line)) for line in text.split("\n"))

    def html(self, most: int | None) -> str:
        """Its shaded tokens, at most so many, those around the loop's onset where there is one."""
        n, onset = len(self.tokens), self.record.onset
        most = most or n
        first = max(0, min(0 if onset is None else onset - most // 2, n - most))
        starts = self.tokens["char_end"].shift(fill_value=0)
        tokens = self.tokens.assign(
            piece=[self.record.text[a:b] for a, b in zip(starts, self.tokens["char_end"], strict=True)]
        )
        shown = "".join(map(self._token, tokens[first : first + most].itertuples()))
        return f"{CUT} " * (first > 0) + shown + f" {CUT}" * (first + most < n)

    def _token(self, token: object) -> str:
        onset = self.record.onset
        looping, alarm = onset is not None and token.step >= onset, token.step == self.alarm
        look = f"background-color: rgba(230, 97, 1, {_opacity(token.entropy):.2f})"
        look += "; border-bottom: 2px dotted #a50026" * looping + "; border: 2px solid #2c3e91" * alarm
        told = (
            f"token {token.step}\nentropy {token.entropy:.2f} nats\ntop-1 probability {token.top1_prob:.2f}"
        )
        told += "\nin the loop" * looping + "\nalarm" * alarm
        text = "".join(map(_visible, token.piece)).translate(str.maketrans(SHOWN_WHITE)) or NO_TEXT
        title = escape(told).replace("\n", "&#10;")
        shown = f'<span style="{look}" title="{title}">{escape(text)}</span>'
        return _mark(LOOP, "#a50026") * (token.step == onset) + shown + _mark(ALARM, "#2c3e91") * alarm


class Answers:
    """Answers side by side; a notebook shows them as HTML.

    Parameters
    ----------
    answers : at least one.
    most : tokens shown of each, those around the loop's onset where there is one; None: all.
    """

    def __init__(self, answers: Sequence[ShownAnswer], most: int | None = None):
        if not answers or (most is not None and most < 1):
            raise InputError(
                f"{len(answers)} answers with at most {most} tokens are not allowed; give one or more"
            )
        self.answers, self.most = tuple(answers), most

    def _repr_html_(self) -> str:
        plain = '<br><span style="font-weight: normal">'
        heads = (f"{escape(one.title)}{plain}{escape(one.heading)}</span>" for one in self.answers)
        heads = "".join(f'<th style="{CELL}">{head}</th>' for head in heads)
        cells = "".join(f'<td style="{CELL}{TEXT}">{one.html(self.most)}</td>' for one in self.answers)
        shade = "padding: 0 6px; background-color: rgba(230, 97, 1, {:.2f})"
        shades = (f'<span style="{shade.format(_opacity(nats))}">{nats}</span>' for nats in SHADES)
        table = "width: 100%; table-layout: fixed; border-collapse: collapse"
        return (
            f'<table style="{table}"><tr>{heads}</tr><tr>{cells}</tr></table>'
            f'<p style="color: #000; background-color: #fff">Entropy in nats: {" ".join(shades)} and more. '
            "Dots below: the loop. Point at a token to see its numbers.</p>"
        )

    def __repr__(self) -> str:
        return side_by_side({one.title: f"{one.heading}\n{one.text()}" for one in self.answers})


def side_by_side(texts: Mapping[str, str], width: int = 56, lines: int = LINES) -> str:
    """Texts in columns of plain characters under their titles, cut after so many lines."""
    columns = []
    for title, text in texts.items():
        wrapped = [part for line in text.splitlines() for part in textwrap.wrap(line, width) or [""]]
        cut = [*wrapped[:lines], CUT] if len(wrapped) > lines else wrapped
        columns.append([title, "-" * width, *cut])
    rows = itertools.zip_longest(*columns, fillvalue="")
    return "\n".join("  ".join(part.ljust(width) for part in row).rstrip() for row in rows)


def _mark(text: str, colour: str) -> str:
    return f'<b style="color: #fff; background-color: {colour}; padding: 0 3px">{text}</b>'


def _opacity(entropy: float) -> float:
    return DARKEST * min(max(entropy, 0.0) / FULL, 1.0)


def _visible(character: str) -> str:
    """A character, or its code where it would act on the text around it."""
    if character in SHOWN_WHITE or unicodedata.category(character) not in SHOWN_AS_CODE:
        return character
    return f"⟨U+{ord(character):04X}⟩"
