"""Statistics of counts and scores: Wilson's interval, paired tests, bootstrap over prompts, one AUROC.

Knows numbers, labels and the prompts that they belong to. Knows nothing of runs, conditions, presses or
files, of what an outcome is, or of how a number is written.
"""

from kvhelpers.stats.auroc import auroc, pair_counts
from kvhelpers.stats.bootstrap import (
    ENOUGH_PROMPTS,
    RESAMPLES,
    Estimate,
    draw,
    draws,
    estimate,
    intervals,
    known,
    mean,
    percentile_ends,
    proportion,
    simultaneous_errors,
    widened,
)
from kvhelpers.stats.paired import (
    SIGNIFICANCE,
    Comparison,
    SignTest,
    adjusted,
    compare_counts,
    fewest_discordant,
    score_interval,
    sign_test,
)
from kvhelpers.stats.token_metrics import (
    TokenMetrics,
    auroc_difference,
    auroc_of_pairs,
    reliability,
    token_metrics,
)
from kvhelpers.stats.wilson import wilson

__all__ = [
    "ENOUGH_PROMPTS",
    "RESAMPLES",
    "SIGNIFICANCE",
    "Comparison",
    "Estimate",
    "SignTest",
    "TokenMetrics",
    "adjusted",
    "auroc",
    "auroc_difference",
    "auroc_of_pairs",
    "compare_counts",
    "draw",
    "draws",
    "estimate",
    "fewest_discordant",
    "intervals",
    "known",
    "mean",
    "pair_counts",
    "percentile_ends",
    "proportion",
    "reliability",
    "score_interval",
    "sign_test",
    "simultaneous_errors",
    "token_metrics",
    "widened",
    "wilson",
]
