"""The area under the ROC curve: how often a positive unit scores above a negative one, ties counting half.

The Mann-Whitney form (Hanley and McNeil 1982, https://doi.org/10.1148/radiology.143.1.7063747), of won pairs
and all pairs. It is undefined without both kinds. With strata only units of the same stratum are compared,
and all such pairs count alike. Two forms share one count of won pairs: `auroc` takes any weights of units;
`pair_counts` counts once per pair of prompts, which is much faster where a draw weights prompts as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from kvhelpers.stats.bootstrap import Statistic

NUMBERS_AT_ONCE = 1 << 23  # of a table of prompts by distinct scores, to save memory


def auroc(scores: np.ndarray, positive: np.ndarray, strata: np.ndarray | None = None) -> Statistic:
    """The AUROC of units with scores and labels ``[units]``, as a statistic of the units' weights."""
    scores, positive = np.asarray(scores, dtype=float), np.asarray(positive, dtype=bool)
    parts = []
    for members in _members(scores, strata):
        order = members[np.argsort(scores[members], kind="stable")]
        ranked = scores[order]
        starts = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1]))  # of each distinct score
        parts.append((order, starts, positive[order]))

    def statistic(weights: np.ndarray) -> np.ndarray:
        won, pairs = np.zeros((2, len(weights)))
        for order, starts, is_positive in parts:
            above = np.add.reduceat(weights[:, order] * is_positive, starts, axis=1)
            below = np.add.reduceat(weights[:, order] * ~is_positive, starts, axis=1)
            won += (above * _beaten(below)).sum(1)
            pairs += above.sum(1) * below.sum(1)
        return won / pairs

    return statistic


def pair_counts(
    scores: np.ndarray,
    positive: np.ndarray,
    prompts: np.ndarray,
    n_prompts: int,
    strata: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Won pairs and all pairs by the prompt of the positive and the prompt of the negative unit, two arrays
    ``[n_prompts, n_prompts]``.

    ``prompts`` numbers the units' prompts from 0. With weights w of prompts, the AUROC is
    (w @ won @ w) / (w @ pairs @ w).
    """
    won, pairs = np.zeros((2, n_prompts, n_prompts))
    for members in _members(scores, strata):
        high, low = members[positive[members]], members[~positive[members]]
        if not len(high) or not len(low):
            continue
        values, place = np.unique(scores[np.concatenate([high, low])], return_inverse=True)
        place_high, place_low = np.split(place, [len(high)])
        of_high, of_low = np.unique(prompts[high]), np.unique(prompts[low])
        pairs += np.outer(
            np.bincount(prompts[high], minlength=n_prompts), np.bincount(prompts[low], minlength=n_prompts)
        )
        at = np.unique(place_high)
        above = _table(
            np.searchsorted(of_high, prompts[high]), np.searchsorted(at, place_high), len(of_high), len(at)
        )
        n_parts = min(len(of_low), -(-len(of_low) * len(values) // NUMBERS_AT_ONCE))
        for part in np.array_split(of_low, n_parts):
            mine = (prompts[low] >= part[0]) & (prompts[low] <= part[-1])
            rows = np.searchsorted(part, prompts[low][mine])
            below = _table(rows, place_low[mine], len(part), len(values))
            won[np.ix_(of_high, part)] += above @ _beaten(below)[:, at].T
    return won, pairs


def _table(rows: np.ndarray, columns: np.ndarray, n_rows: int, n_columns: int) -> np.ndarray:
    """How many units each prompt has at each distinct score."""
    return np.bincount(rows * n_columns + columns, minlength=n_rows * n_columns).reshape(n_rows, n_columns)


def _beaten(below: np.ndarray) -> np.ndarray:
    """How many negative units a positive one beats at each distinct score, ``[.., distinct scores]``: all
    below it and half of those that tie.
    """
    return below.cumsum(-1) - below / 2


def _members(scores: np.ndarray, strata: np.ndarray | None) -> Iterator[np.ndarray]:
    """The units of each stratum, or all."""
    if not len(scores):
        return
    codes = np.zeros(len(scores), dtype=int) if strata is None else pd.factorize(np.asarray(strata))[0]
    order = np.argsort(codes, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)
