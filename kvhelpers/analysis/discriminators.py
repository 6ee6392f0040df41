"""How well one number about a whole run tells failed runs from the others.

These are descriptions, not predictions: a number of the whole run has seen the failure. ``first`` limits it
to the run's first tokens. The trivial numbers stand in the same table: what a signal adds is what it has
above them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import pandas as pd

from kvhelpers.stats import Estimate, auroc, estimate

WORDS = {
    "entropy": "entropy",
    "varentropy": "varentropy",
    "top1_prob": "top-1 probability",
    "margin": "margin",
}
SIGNALS = tuple(WORDS)
CONFIDENT = 0.99  # top-1 probability
OUTCOMES = {"looping": "looping", "non_termination": "non-termination", "wrong_answer": "wrong answer"}
REMOVED, LENGTH = "share removed (trivial)", "length (trivial)"
POOLED, WITHIN = "all", "within conditions"


class Gap(StrEnum):
    """Why an AUROC is missing."""

    NO_RUN = "no run"
    NO_PAIR = "no pair to compare"
    ALL_HAVE_IT = "all runs have the outcome"
    NONE_HAS_IT = "no run has the outcome"


@dataclass(frozen=True)
class BestNumber:
    """The number of a run that tells an outcome best, trivial ones aside: ``feature`` with its ``auroc``,
    beside ``length`` alone. All None where none can be told, which ``gap`` explains.
    """

    feature: str | None
    auroc: Estimate | None
    length: Estimate | None
    gap: Gap | None


@dataclass(frozen=True)
class BestNumbers:
    """An outcome (title), and what tells it best of whole runs and of their first tokens."""

    outcome: str
    whole: BestNumber
    early: BestNumber


def run_features(
    runs: pd.DataFrame, signals: Mapping[str, np.ndarray], first: int | None = None
) -> pd.DataFrame:
    """One row per run, one column per number; missing where the run has too few tokens for it.

    Largest, mean and smallest value of each signal over the run's tokens, or its ``first`` ones; slope, the
    least-squares change per token; the share of confident tokens (top-1 probability above .99); the share of
    the cache removed; the run's length in tokens, no more than ``first``.
    """
    features = {}
    for name, word in WORDS.items():
        values = signals[name][:, :first]
        tokens = np.isfinite(values).sum(1)
        steps = np.where(np.isfinite(values), np.arange(values.shape[1]), np.nan)
        masked = np.ma.masked_invalid(values)
        centred = np.ma.masked_invalid(
            steps - np.ma.masked_invalid(steps).mean(1, keepdims=True).filled(np.nan)
        )
        features[f"{word}, largest"] = masked.max(1).filled(np.nan)
        features[f"{word}, mean"] = masked.mean(1).filled(np.nan)
        features[f"{word}, smallest"] = masked.min(1).filled(np.nan)
        slope = (centred * masked).sum(1) / (centred**2).sum(1)
        features[f"{word}, slope"] = np.where(tokens > 1, np.ma.filled(slope, np.nan), np.nan)
    confident = np.ma.masked_invalid(signals["top1_prob"][:, :first]) > CONFIDENT
    features["confident tokens, share"] = confident.mean(1).filled(np.nan)
    features[REMOVED] = runs["removed"]
    features[LENGTH] = runs["tokens"].clip(upper=first)
    return pd.DataFrame(features, index=runs.index).astype(float)


def discriminate(runs: pd.DataFrame, features: pd.DataFrame, by_press: bool = True) -> pd.DataFrame:
    """AUROC of every feature for every outcome, pairs within the same condition only; ``by_press`` also all
    pairs, and each press's.

    Runs that an error stopped and runs without the feature are left out, and ``n`` is without them.

    Returns
    -------
    Rows ``outcome, among, feature, auroc, low, high, positive, n, prompts, gap``; ``positive`` of the ``n``
    runs have the outcome. Where there is nothing to tell apart, AUROC and interval are missing and ``gap`` is
    a `Gap`. Below .5, positive runs have the smaller values.
    """
    rows = []
    for (name, title), (among, index), feature in _questions(runs, features, by_press):
        scores = features.loc[index, feature]
        used = scores[scores.notna() & ~runs.loc[index, "errored"]].index
        positive, part = runs.loc[used, name], runs.loc[used]
        row = {"outcome": title, "among": among, "feature": feature}
        row |= {"positive": int(positive.sum()), "n": len(used), "gap": None}
        strata = part["condition"].to_numpy() if among == WITHIN else None
        area = estimate(auroc(scores[used], positive, strata), part["prompt"]) if len(used) else None
        if area is None:
            row["gap"] = _gap(positive)
        else:
            row |= {"auroc": area.value, "low": area.low, "high": area.high, "prompts": area.prompts}
        rows.append(row)
    columns = ["outcome", "among", "feature", "auroc", "low", "high", "positive", "n", "prompts", "gap"]
    return pd.DataFrame(rows).reindex(columns=columns)


def _questions(
    runs: pd.DataFrame, features: pd.DataFrame, by_press: bool
) -> Iterator[tuple[tuple[str, str], tuple[str, pd.Index], str]]:
    """Each outcome with each group of runs and each feature."""
    groups = {WITHIN: runs.index}
    if by_press:
        groups |= {POOLED: runs.index}
        groups |= {press: part.index for press, part in runs.groupby("press", sort=False)}
    yield from itertools.product(OUTCOMES.items(), groups.items(), features)


def _gap(positive: pd.Series) -> Gap:
    if not len(positive):
        return Gap.NO_RUN
    if positive.nunique() > 1:
        return Gap.NO_PAIR
    return Gap.ALL_HAVE_IT if positive.all() else Gap.NONE_HAS_IT


def best_numbers(whole: pd.DataFrame, early: pd.DataFrame) -> list[BestNumbers]:
    """The best number for each outcome, within conditions; both tables are from `discriminate`."""
    return [BestNumbers(title, _best(whole, title), _best(early, title)) for title in OUTCOMES.values()]


def _best(table: pd.DataFrame, outcome: str) -> BestNumber:
    rows = table[(table["among"] == WITHIN) & (table["outcome"] == outcome)].set_index("feature")
    known = rows[rows["auroc"].notna()]
    signal = known.drop(index=[REMOVED, LENGTH], errors="ignore")
    if not len(signal):
        return BestNumber(None, None, None, rows["gap"].iloc[0] if len(rows) else Gap.NO_RUN)
    best = (signal["auroc"] - 0.5).abs().idxmax()
    length = auroc_of(known.loc[LENGTH]) if LENGTH in known.index else None
    return BestNumber(best, auroc_of(known.loc[best]), length, None)


def auroc_of(row: pd.Series) -> Estimate | None:
    """The AUROC of a row of `discriminate`'s table; None where there is none."""
    if pd.isna(row["auroc"]):
        return None
    low, high = (None if pd.isna(row[end]) else row[end] for end in ("low", "high"))
    return Estimate(row["auroc"], low, high, row["n"], row["prompts"])
