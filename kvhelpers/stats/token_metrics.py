"""How good token-by-token risk scores are, with intervals by bootstrap over prompts.

AUROC needs pairs of tokens, one before a failure and one not. All that a draw of prompts changes is how often
each pair of prompts counts, so the pairs are counted once per pair of prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kvhelpers.stats.auroc import pair_counts
from kvhelpers.stats.bootstrap import Estimate, draws, known, percentile_ends, proportion

PRECISION_DRAWS = 200  # draws of average precision, which is costly
BINS = 10  # of the reliability curve, with equally many tokens each


@dataclass(frozen=True)
class TokenMetrics:
    """Scores against labels.

    ``auroc`` over all pairs of tokens; ``auroc_within`` over pairs of the same stratum, so that knowing the
    stratum gains nothing; ``auprc``, the average precision, to be compared with ``base_rate``; ``brier``, the
    mean squared error of the probability. None where it is undefined.
    """

    auroc: Estimate | None
    auroc_within: Estimate | None
    auprc: Estimate | None
    brier: Estimate | None
    base_rate: float | None
    tokens: int
    positive: int


def token_metrics(
    score: np.ndarray, label: np.ndarray, prompts: Sequence[str], strata: np.ndarray
) -> TokenMetrics:
    """Judge scores ``[N]`` (probabilities) against labels ``[N]`` of tokens in ``strata`` ``[N]``; tokens
    whose label or score is NaN are left out.
    """
    used = ~np.isnan(label) & ~np.isnan(score)
    score, positive, strata = score[used], label[used].astype(bool), strata[used]
    codes, names = pd.factorize(np.asarray(prompts, dtype=object)[used])
    if not len(score):
        return TokenMetrics(None, None, None, None, None, 0, 0)
    return TokenMetrics(
        _pairwise(*pair_counts(score, positive, codes, len(names)), len(score)),
        _pairwise(*pair_counts(score, positive, codes, len(names), strata), len(score)),
        _average_precision(score, positive, codes, len(names)),
        _mean((score - positive) ** 2, codes, len(names)),
        float(positive.mean()),
        len(score),
        int(positive.sum()),
    )


def auroc_of_pairs(
    score: np.ndarray, label: np.ndarray, prompts: Sequence[str], strata: np.ndarray
) -> Estimate | None:
    """AUROC over pairs of tokens of the same stratum, as `TokenMetrics.auroc_within`; None where there is
    no such pair.
    """
    used = ~np.isnan(label) & ~np.isnan(score)
    codes, names = pd.factorize(np.asarray(prompts, dtype=object)[used])
    if not len(names):
        return None
    pairs = pair_counts(score[used], label[used].astype(bool), codes, len(names), strata[used])
    return _pairwise(*pairs, int(used.sum()))


def auroc_difference(
    first: np.ndarray, second: np.ndarray, label: np.ndarray, prompts: Sequence[str], strata: np.ndarray
) -> Estimate | None:
    """AUROC within strata of the first scores minus that of the second on the same tokens, all draws
    shared.
    """
    used = ~np.isnan(label) & ~np.isnan(first) & ~np.isnan(second)
    positive, (codes, names) = label[used].astype(bool), pd.factorize(np.asarray(prompts, dtype=object)[used])
    won, pairs = zip(
        *(pair_counts(score[used], positive, codes, len(names), strata[used]) for score in (first, second)),
        strict=True,
    )
    return _pairwise(won[0] - won[1], pairs[0], int(used.sum()))


def _pairwise(won: np.ndarray, pairs: np.ndarray, tokens: int) -> Estimate | None:
    def ratio(weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.einsum("dp,pq,dq->d", weights, won, weights) / np.einsum(
                "dp,pq,dq->d", weights, pairs, weights
            )

    return _interval(ratio, len(won), tokens)


def _mean(values: np.ndarray, codes: np.ndarray, n: int) -> Estimate | None:
    total, count = np.bincount(codes, values, n), np.bincount(codes, minlength=n)
    return _interval(lambda weights: (weights @ total) / (weights @ count), n, len(values))


def _average_precision(score: np.ndarray, positive: np.ndarray, codes: np.ndarray, n: int) -> Estimate | None:
    """Sum over thresholds of precision times the gain in recall (as scikit-learn's)."""
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    hits, owners = positive[order], codes[order]

    def precision(weights: np.ndarray) -> np.ndarray:
        values = []
        for of_prompt in weights:
            weight = of_prompt[owners]
            true, ranked = np.cumsum(weight * hits)[ends], np.cumsum(weight)[ends]
            with np.errstate(invalid="ignore"):
                values.append((np.nan_to_num(true / ranked) * np.diff(true, prepend=0)).sum() / true[-1])
        return np.array(values)

    return _interval(precision, n, len(score), PRECISION_DRAWS)


def _interval(statistic, n: int, tokens: int, most: int | None = None) -> Estimate | None:
    value = statistic(np.ones((1, n)))[0]
    if np.isnan(value):
        return None
    drawn = statistic(draws(n)[:most]) if n > 1 else np.array([np.nan])
    low, high = (known(end[0]) for end in percentile_ends(drawn[:, None], n))
    return Estimate(float(value), low, high, tokens, n)


def reliability(score: np.ndarray, label: np.ndarray, prompts: Sequence[str]) -> pd.DataFrame:
    """Mean predicted probability against the observed share of failures, in bins of equally many tokens.

    Rows ``predicted, observed, low, high, n``; low and high are the 95 % interval by bootstrap over prompts,
    None where there is none.
    """
    used = np.flatnonzero(~np.isnan(label) & ~np.isnan(score))
    order = used[np.argsort(score[used], kind="stable")]
    prompts, rows = np.asarray(prompts, dtype=object), []
    for part in np.array_split(order, min(BINS, len(order))):
        observed = proportion(label[part].astype(bool), prompts[part])
        rows.append(
            {"predicted": float(score[part].mean()), "observed": observed.value}
            | {"low": observed.low, "high": observed.high, "n": observed.n}
        )
    return pd.DataFrame(rows, dtype=object)
