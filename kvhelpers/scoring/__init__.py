"""What went wrong in one answer, what not to trust, and the rates of a condition.

It sees a run's text, tokens and stop reason. It does not know the model, the press, or other conditions: what
takes more than one condition is `kvhelpers.signals`.
"""

from kvhelpers.scoring.failure_modes import failure_mode
from kvhelpers.scoring.failures import find_failures, find_periodic_loop, find_window_loop
from kvhelpers.scoring.flags import FLAGS, INVALIDATING, baseline_is_weak
from kvhelpers.scoring.score import Ended, Score, score
from kvhelpers.scoring.summary import most_interesting, summarize

__all__ = [
    "FLAGS",
    "INVALIDATING",
    "Ended",
    "Score",
    "baseline_is_weak",
    "failure_mode",
    "find_failures",
    "find_periodic_loop",
    "find_window_loop",
    "most_interesting",
    "score",
    "summarize",
]
