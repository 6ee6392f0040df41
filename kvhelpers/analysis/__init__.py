"""All runs of an experiment at once: what happens around the onset of loops, whether entropy warns of them,
which numbers tell failed runs from others, where accuracy falls to half, which conditions differ.

Reads finished results and gives tables, numbers and verdicts. Knows nothing of models and of how a run was
made, and writes no sentence, picture or file.
"""

from kvhelpers.analysis.analyse import Analysis, analyse
from kvhelpers.analysis.claims import ClaimVerdict, JudgedClaim, judge_claims
from kvhelpers.analysis.comparisons import Comparisons, Verdict, compare, compare_conditions
from kvhelpers.analysis.discriminators import Gap, discriminate, run_features
from kvhelpers.analysis.entropy_alarms import (
    QUANTILES,
    Alarms,
    AlarmVerdict,
    Direction,
    judge_alarms,
    most_telling,
)
from kvhelpers.analysis.half_accuracy import HalfAccuracy, curves, find_half_accuracies, find_half_accuracy
from kvhelpers.analysis.onset_alignment import align, onset_differences
from kvhelpers.analysis.runs import instructive_run, run_signals, run_tokens, signal_arrays

__all__ = [
    "QUANTILES",
    "AlarmVerdict",
    "Alarms",
    "Analysis",
    "ClaimVerdict",
    "Comparisons",
    "Direction",
    "Gap",
    "HalfAccuracy",
    "JudgedClaim",
    "Verdict",
    "align",
    "analyse",
    "compare",
    "compare_conditions",
    "curves",
    "discriminate",
    "find_half_accuracies",
    "find_half_accuracy",
    "instructive_run",
    "judge_alarms",
    "judge_claims",
    "most_telling",
    "onset_differences",
    "run_features",
    "run_signals",
    "run_tokens",
    "signal_arrays",
]
