"""How well one number about a whole run tells failed runs from the others.

These are descriptions, not predictions: a number of the whole run has seen the failure. ``first`` limits it to the run's first
tokens. The trivial numbers stand in the same table: what a signal adds is what it has above them.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from kvhelpers.bootstrap import auroc, estimate

SIGNALS = ("entropy", "varentropy", "top1_prob", "margin")
CONFIDENT = 0.99  # top-1 probability
OUTCOMES = {"looping": "looping", "non_termination": "non-termination", "wrong_answer": "wrong answer"}
REMOVED, LENGTH = "share removed (trivial)", "length (trivial)"
POOLED, WITHIN = "all", "within cells"


def run_features(runs: pd.DataFrame, signals: dict[str, np.ndarray], first: int | None = None) -> pd.DataFrame:
    """One row per run, one column per number; missing where the run has too few tokens for it.

    ``max``, ``mean``, ``min`` of each signal over the run's tokens, or its ``first`` ones; ``slope``, the least-squares change
    per token; the share of confident tokens (top-1 probability above .99); the share of the cache removed; the run's length
    in tokens, no more than ``first``.
    """
    features = {}
    for name in SIGNALS:
        values = signals[name][:, :first]
        tokens = np.isfinite(values).sum(1)
        steps = np.where(np.isfinite(values), np.arange(values.shape[1]), np.nan)
        masked = np.ma.masked_invalid(values)
        centred = np.ma.masked_invalid(steps - np.ma.masked_invalid(steps).mean(1, keepdims=True).filled(np.nan))
        features[f"{name}, max"] = masked.max(1).filled(np.nan)
        features[f"{name}, mean"] = masked.mean(1).filled(np.nan)
        features[f"{name}, min"] = masked.min(1).filled(np.nan)
        slope = (centred * masked).sum(1) / (centred**2).sum(1)
        features[f"{name}, slope"] = np.where(tokens > 1, np.ma.filled(slope, np.nan), np.nan)
    confident = np.ma.masked_invalid(signals["top1_prob"][:, :first]) > CONFIDENT
    features["confident tokens, share"] = confident.mean(1).filled(np.nan)
    features[REMOVED] = runs["removed"]
    features[LENGTH] = runs["tokens"].clip(upper=first)
    return pd.DataFrame(features, index=runs.index).astype(float)


def discriminate(runs: pd.DataFrame, features: pd.DataFrame, by_press: bool = True) -> pd.DataFrame:
    """AUROC of every feature for every outcome, pairs within the same cell only; ``by_press`` also all pairs, and each press's.

    Failed runs (an error, not the model's doing) and runs without the feature are left out, and ``n`` is without them.

    Returns
    -------
    Rows ``outcome, among, feature, auroc, low, high, failed, n, prompts, gap``; ``failed`` of the ``n`` runs have the outcome.
    Where there is nothing to tell apart, AUROC and interval are missing and ``gap`` says why. Below .5, failed runs have the
    smaller values.
    """
    rows = []
    groups = {WITHIN: runs.index}
    if by_press:
        groups |= {POOLED: runs.index} | {name: found.index for name, found in runs.groupby("press", sort=False)}
    for (name, title), (among, index), feature in (
        (outcome, group, feature) for outcome in OUTCOMES.items() for group in groups.items() for feature in features
    ):
        scores = features.loc[index, feature]
        used = scores[scores.notna() & ~runs.loc[index, "failed"]].index
        positive, part = runs.loc[used, name], runs.loc[used]
        row = {"outcome": title, "among": among, "feature": feature, "failed": int(positive.sum()), "n": len(used)}
        strata = part["cell"].to_numpy() if among == WITHIN else None
        found = estimate(auroc(scores[used], positive, strata), part["prompt"]) if len(used) else None
        if found is None:
            row["gap"] = (
                "no run" if not len(used) else "no pair to compare" if positive.nunique() > 1 else _one_kind(title, positive)
            )
            rows.append(row)
            continue
        rows.append(row | {"auroc": found.value, "low": found.low, "high": found.high, "prompts": found.prompts, "gap": ""})
    columns = ["outcome", "among", "feature", "auroc", "low", "high", "failed", "n", "prompts", "gap"]
    return pd.DataFrame(rows).reindex(columns=columns)


def _one_kind(title: str, positive: pd.Series) -> str:
    return f"all runs have the outcome {title}" if positive.all() else f"no run has the outcome {title}"
