"""Single sentences of the log, for notebooks: what the templates say of one condition or of an analysis."""

from __future__ import annotations

from kvhelpers.analysis.analyse import FIRST, Analysis
from kvhelpers.experiment.results import ConditionResult
from kvhelpers.report.render import block


def condition_sentence(result: ConditionResult) -> str:
    """One condition by itself: what it keeps, solves and fails at, and what to hold against that."""
    return block("conclusions", "condition", result=result)


def onset_sentences(analysis: Analysis) -> str:
    """Where looping runs differ from their controls, one sentence a line; before them what was left out."""
    parts = (block("signals", name, analysis=analysis) for name in ("left_out", "onset"))
    return "\n".join(filter(None, parts))


def alarm_sentences(analysis: Analysis) -> str:
    """Whether high and low entropy warn of loops, one paragraph a line."""
    return block("signals", "alarms", analysis=analysis)


def discriminator_sentences(analysis: Analysis) -> str:
    """Which number tells each outcome best, one sentence a line."""
    return block("signals", "discriminators", analysis=analysis, first=FIRST)
