"""Is this cache setting safe for my model? Two sets of answers in, one verdict out.

Knows answers and outcomes, not presses: the sets may come from any engine.
"""

from kvhelpers.compare.answer_sets import AnswerSet, condition_set, read_set, text_loop
from kvhelpers.compare.verdict import EXIT_CODES, Check, changes, check, decide, needed, outcomes, paired
from kvhelpers.compare.words import as_json, as_markdown

__all__ = [
    "EXIT_CODES",
    "AnswerSet",
    "Check",
    "as_json",
    "as_markdown",
    "changes",
    "check",
    "condition_set",
    "decide",
    "needed",
    "outcomes",
    "paired",
    "read_set",
    "text_loop",
]
