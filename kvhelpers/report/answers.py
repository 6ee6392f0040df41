"""Answers that one can look at: side by side, each token shaded by its entropy, loop and alarm marked.

In a notebook they are HTML without scripts, in which the template escapes every token; elsewhere, plain text
with the same marks.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from kvhelpers.errors import InputError
from kvhelpers.records import Record
from kvhelpers.report.excerpt import CUT, LOOP
from kvhelpers.report.render import block, render_html
from kvhelpers.report.tables import side_by_side

ALARM = "⟦alarm⟧"
FULL = 4.0  # nats; no shade is darker than that of this entropy
SHADES = (0, 1, 2, 3, 4)  # nats, in the legend
DARKEST = 0.8  # opacity
LINES = 40  # of a text
COLUMNS = ("step", "char_end", "entropy", "top1_prob")
NO_TEXT = "▯"  # a part of a character, or the end token
SHOWN_WHITE = {"\n": "↵\n", "\t": "→\t"}
SHOWN_AS_CODE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # categories that would act, or cannot be seen


@dataclass(frozen=True)
class ShownAnswer:
    """A run under its title.

    Parameters
    ----------
    title : such as the condition's label.
    record : the run.
    tokens : a row per new token with the columns `COLUMNS`, as `analysis.runs.run_tokens` gives them.
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
        return block("common", "answer_heading", record=self.record, alarm=self.alarm)

    def pieces(self) -> list[str]:
        """Each token's text."""
        ends = self.tokens["char_end"].tolist()
        return [self.record.text[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def text(self) -> str:
        """The text with its marks."""
        alarm = None if self.alarm is None else int(self.tokens["char_end"].iloc[self.alarm])
        text = self.record.text
        places = [
            (self.record.loop_onset_char if self.record.onset is not None else None, LOOP),
            (alarm, ALARM),
        ]
        for place, mark in sorted((pair for pair in places if pair[0] is not None), reverse=True):
            text = text[:place] + mark + text[place:]
        return "\n".join("".join(map(_visible, line)) for line in text.split("\n"))


@dataclass(frozen=True)
class _Token:
    """A token as the template takes it: its text, its number, its signals, and the opacity of its shade."""

    text: str
    step: int
    entropy: float
    top1_prob: float
    opacity: float
    in_loop: bool
    begins_loop: bool
    raises_alarm: bool


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
        return render_html(
            "answers",
            answers=[(answer, *self._window(answer)) for answer in self.answers],
            legend=[(nats, _opacity(nats)) for nats in SHADES],
            marks={"loop": LOOP, "alarm": ALARM, "cut": CUT},
        )

    def __repr__(self) -> str:
        return side_by_side({one.title: f"{one.heading}\n{one.text()}" for one in self.answers}, lines=LINES)

    def _window(self, answer: ShownAnswer) -> tuple[list[_Token], bool, bool]:
        """The tokens shown, and whether some are left out before and behind them."""
        n, most = len(answer.tokens), self.most or len(answer.tokens)
        first = 0 if answer.record.onset is None else max(0, answer.record.onset - most // 2)
        first = max(0, min(first, n - most))
        return list(_tokens(answer))[first : first + most], first > 0, first + most < n


def _tokens(answer: ShownAnswer) -> Iterator[_Token]:
    onset = answer.record.onset
    rows = answer.tokens[list(COLUMNS)].itertuples(index=False)
    for row, piece in zip(rows, answer.pieces(), strict=True):
        yield _Token(
            text="".join(map(_visible, piece)).translate(str.maketrans(SHOWN_WHITE)) or NO_TEXT,
            step=int(row.step),
            entropy=float(row.entropy),
            top1_prob=float(row.top1_prob),
            opacity=_opacity(row.entropy),
            in_loop=onset is not None and row.step >= onset,
            begins_loop=row.step == onset,
            raises_alarm=row.step == answer.alarm,
        )


def _opacity(entropy: float) -> float:
    return DARKEST * min(max(entropy, 0.0) / FULL, 1.0)


def _visible(character: str) -> str:
    """A character, or its code where it would act on the text around it."""
    if character in SHOWN_WHITE or unicodedata.category(character) not in SHOWN_AS_CODE:
        return character
    return f"⟨U+{ord(character):04X}⟩"
