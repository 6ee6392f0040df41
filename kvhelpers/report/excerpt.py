"""What is shown of a run's text."""

from __future__ import annotations

from dataclasses import dataclass

from kvhelpers.experiment.results import ConditionResult
from kvhelpers.records import Record

LENGTH = 400  # characters; of a looping run, half of them before the onset
LOOP, CUT = "⟦loop⟧", "[…]"


@dataclass(frozen=True)
class Excerpt:
    """A run, the label of its condition, and a part of its text: model output, to be escaped.

    `LOOP` marks the onset of the loop, `CUT` what is left out.
    """

    label: str
    record: Record
    text: str


def make_excerpt(result: ConditionResult, record: Record) -> Excerpt:
    """The beginning of a run's text; of a looping run, the part around its onset."""
    text, first = record.text, 0
    if record.onset is not None:
        onset = record.loop_onset_char
        text, first = f"{text[:onset]}{LOOP}{text[onset:]}", max(0, onset - LENGTH // 2)
    before, after = f"{CUT} " if first else "", f" {CUT}" if len(text) > first + LENGTH else ""
    return Excerpt(result.label, record, before + text[first : first + LENGTH] + after)
