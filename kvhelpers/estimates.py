"""What is estimated of an experiment's conditions: their rates, how these differ, where accuracy falls to
half.

Everything is a function of `frames.runs` and returns rows of the long frame (`frames.LONG`), so that a new
question is one more function here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from kvhelpers import frames, signals
from kvhelpers.experiment.grid import Contrast
from kvhelpers.presses.registry import NONE
from kvhelpers.scoring.flags import baseline_is_weak
from kvhelpers.scoring.summary import ENDINGS
from kvhelpers.stats import SIGNIFICANCE, adjusted, compare_counts, intervals, mean

RATES = {  # metric: the column of `frames.runs`
    "accuracy": "correct",
    "cfr": "catastrophic",
    "non_termination": "non_termination",
    "looping": "looping",
    "wrong_answer": "wrong_answer",
}
NEVER_ENDS = "loops or does not end"
HALF = 0.5  # of the uncompressed accuracy


def estimates(
    runs: pd.DataFrame,
    tokens: pd.DataFrame,
    contrasts: Sequence[Contrast] = (),
    quantiles: Sequence[float] = signals.QUANTILES,
) -> pd.DataFrame:
    """Everything that is estimated of an experiment, in one long frame; ``tokens`` with `signals.SIGNALS`.

    Raises
    ------
    InputError : as `signals.alarms`.
    """
    rows = [*rates(runs), *differences(runs), *contrasted(runs, contrasts), *half_accuracy(runs)]
    rows += signal_means(runs, tokens)
    valid = runs[runs["valid"]].reset_index(drop=True)
    parts = [frames.long_frame(rows)]
    if len(valid) and len(tokens):
        entropy = signals.wide(valid, tokens, "entropy")
        parts += [signals.alarms(valid, entropy, quantiles, last) for last in (None, signals.LAST)]
        for first, words in ((None, "whole run"), (signals.FIRST, f"first {signals.FIRST} tokens")):
            told = signals.numbers(valid, tokens, first)
            parts.append(signals.separation(valid, told, f"what tells failures, {words}"))
    return pd.concat([part for part in parts if len(part)], ignore_index=True)


def conditions(runs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The runs of each condition, in their order."""
    return iter(runs.groupby("condition", sort=False))


def rates(runs: pd.DataFrame) -> list[dict]:
    """Each rate of each condition, with its Wilson interval."""
    columns = RATES | {name: name for name in ENDINGS if name in runs}
    return [
        frames.rate_row("rate", label, metric, int(part[column].sum()), len(part))
        for label, part in conditions(runs)
        for metric, column in columns.items()
    ]


def differences(runs: pd.DataFrame) -> list[dict]:
    """Each compressed condition against the uncompressed runs of the same prompts; q over all of these and
    both outcomes.
    """
    runs = runs.assign(**{NEVER_ENDS: runs["looping"] | runs["non_termination"]})
    by_run, pairs = runs.set_index("run"), []
    for label, part in conditions(runs[~frames.uncompressed(runs) & runs["baseline"].notna()]):
        twins = by_run.loc[part["baseline"]]
        pairs += [
            (label, name, twins[column].to_numpy(), part[column].to_numpy())
            for name, column in (("accuracy", "correct"), (NEVER_ENDS, NEVER_ENDS))
        ]
    return _tested("against no compression", pairs)


def contrasted(runs: pd.DataFrame, contrasts: Sequence[Contrast]) -> list[dict]:
    """The pairs of conditions that an experiment file names, on their common prompts: ``subject`` is the
    first against the second, q is over all pairs and both outcomes. A pair that is not finished has no row.
    """
    by_label, pairs = dict(conditions(runs)), []
    for contrast in contrasts:
        if contrast.first in by_label and contrast.second in by_label:
            both = by_label[contrast.first].merge(by_label[contrast.second], on="prompt")
            subject = f"{contrast.about}: {contrast.first} against {contrast.second}"
            pairs += [
                (subject, name, both[f"{column}_y"].to_numpy(), both[f"{column}_x"].to_numpy())
                for name, column in (("looping", "looping"), ("accuracy", "correct"))
                if len(both)
            ]
    return _tested("contrast", pairs)


def _tested(question: str, pairs: Sequence[tuple[str, str, np.ndarray, np.ndarray]]) -> list[dict]:
    """Rows of (subject, metric, outcomes before, outcomes after): the difference, prompts lost and gained,
    and McNemar's exact p, with q over all of them.
    """
    rows, made = [], []
    for *_, before, after in pairs:
        lost, gained = int((before & ~after).sum()), int((after & ~before).sum())
        made.append(compare_counts(lost, gained, len(before)))
    for (subject, metric, *_), one, q in zip(pairs, made, adjusted([one.p for one in made]), strict=True):
        size = {"n": one.n, "prompts": one.n}
        verdict = "undecided" if q >= SIGNIFICANCE else "higher" if one.difference > 0 else "lower"
        ends = {"low": one.low, "high": one.high, "q": q, "verdict": verdict}
        rows.append(frames.row(question, subject, metric, one.difference, **ends, **size))
        for name, value in (("lost", one.only_first), ("gained", one.only_second), ("p", one.p)):
            rows.append(frames.row(question, subject, f"{metric}, {name}", value, **size))
    return rows


def curves(runs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Compressed runs of conditions that differ in ratio or budget only, by press and fields; without those
    whose cache is cut again while decoding, which the prefill's kept tokens do not describe.
    """
    steady = runs.groupby("condition")["compressions"].transform("max") == 0
    part = runs[(runs["press"] != NONE) & steady & runs["kept_tokens"].notna()]
    for (press, fields), curve in part.groupby(["press", "fields"], sort=False):
        yield press + (f" ({fields})" if fields else ""), curve


def half_accuracy(runs: pd.DataFrame) -> list[dict]:
    """Between how many kept tokens a press falls to half of the uncompressed accuracy: ``kept, more than
    half`` and ``kept, half or less`` are two neighbours among its conditions, from most to fewest kept
    tokens; 0 where none falls so far. Low and high are the conditions within which both lie in 95 % of the
    draws of prompts.

    Nothing for a press of one condition, without uncompressed runs of the same prompts, or where these are
    right too rarely. The second row's verdict is ``not valid`` where a flag takes away its condition's
    meaning.
    """
    rows = []
    for name, curve in curves(runs):
        curve = curve[curve["baseline"].notna()]
        kept = curve.groupby("condition")["kept_tokens"].mean().sort_values(ascending=False, kind="stable")
        right = curve.pivot(index="prompt", columns="condition", values="correct")[kept.index].dropna()
        twins = curve.drop_duplicates("prompt").set_index("prompt").loc[right.index]
        plain = twins["baseline_correct"].to_numpy(bool)
        if len(kept) < 2 or not len(right) or baseline_is_weak(int(plain.sum())):
            continue
        whole = runs.set_index("run").loc[twins["baseline"], "compressed_tokens"].astype(float).mean()
        places = np.array([whole, *kept, 0], dtype=float)
        correct = np.column_stack([plain, right]).astype(float)

        def neighbours(weights: np.ndarray, correct: np.ndarray = correct) -> np.ndarray:
            """Places before and after the fall, ``[draws, 2]``; NaN where a draw solves nothing."""
            accuracy = weights @ correct / weights.sum(1, keepdims=True)
            fallen = accuracy <= HALF * accuracy[:, :1]
            fallen = np.pad(fallen, ((0, 0), (0, 1)), constant_values=True)
            after = np.where(fallen[:, 0], np.nan, fallen.argmax(1))
            return np.stack([after - 1, after], axis=1)

        (before, after), (first, _), (_, last) = intervals(neighbours, list(right.index))
        ends = {
            "low": np.nan if math.isnan(last) else places[math.ceil(last)],
            "high": np.nan if math.isnan(first) else places[math.floor(first)],
        }
        valid = curve.groupby("condition")["valid"].first()[kept.index]
        void = 0 < after <= len(kept) and not valid.iloc[int(after) - 1]
        for metric, place in (("kept, more than half", before), ("kept, half or less", after)):
            verdict = {"verdict": "not valid"} if void and place == after else {}
            size = {"n": len(right), "prompts": len(right)}
            rows.append(
                frames.row("half accuracy", name, metric, places[int(place)], **ends, **size, **verdict)
            )
    return rows


def signal_means(runs: pd.DataFrame, tokens: pd.DataFrame) -> list[dict]:
    """Means over a condition's runs of the run's mean and largest entropy (nats) and smallest top-1
    probability.
    """
    by_run = tokens.groupby("run")
    of_runs = {
        "mean entropy": by_run["entropy"].mean(),
        "largest entropy": by_run["entropy"].max(),
        "smallest top-1 probability": by_run["top1_prob"].min(),
    }
    rows = []
    for (label, part), (metric, values) in itertools.product(conditions(runs), of_runs.items()):
        there = part.assign(value=values.reindex(part["run"]).to_numpy()).dropna(subset="value")
        rows += [frames.bootstrap_row("signal", label, metric, mean(there["value"]), there["prompt"])]
    return rows
