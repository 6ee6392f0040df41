"""What only an oracle knows of a run: its *twin*, the uncompressed run of the same prompt, from its first to
its last token, and what became of the prompt under other presses. Features for a bound on what can be told;
nobody has them while a run goes on.

TWIN (missing where there is no uncompressed run, and for that run itself)
same                whether all tokens so far are the twin's
since_difference    tokens since the first one that is not, 0 before
twin_entropy_gap    entropy minus the twin's at the same token while all are the same, nats
in_twin16           share of the last 16 tokens' trigrams that occur in the twin
twin_right          whether the twin ended with the right answer
twin_tokens         how many tokens the twin has; twin_left, how many more than the run has so far

PROMPT, over the compressed runs of the prompt in other conditions of the same task and model
fails_elsewhere     share that loop or overrun
right_elsewhere     share that end with the right answer
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from kvhelpers.experiment.results import ConditionResult, find_baseline
from kvhelpers.hazard.risk_set import RiskSet
from kvhelpers.presses.registry import NONE

TWIN = (
    "same",
    "since_difference",
    "twin_entropy_gap",
    "in_twin16",
    "twin_right",
    "twin_tokens",
    "twin_left",
)
PROMPT = ("fails_elsewhere", "right_elsewhere")
GRAM, RECENT = 3, 16

Tokens = tuple[Sequence[int], np.ndarray]  # token ids and entropies, ``[T]`` each


def with_twins(risk: RiskSet, results: Sequence[ConditionResult], tokens: Sequence[Tokens]) -> RiskSet:
    """The risk set with the features `TWIN` and `PROMPT` of each token.

    ``tokens`` are those of each run, in the order of ``risk.runs``.
    """
    twin_of, runs = _twins(risk.runs, results), risk.runs
    right = risk.ended(right=True)
    elsewhere = _elsewhere(runs, right)
    columns = np.full((len(risk.run), len(TWIN) + len(PROMPT)), np.nan, dtype=np.float32)
    bounds = np.searchsorted(risk.run, np.arange(len(runs) + 1))
    for run in range(len(runs)):
        steps = risk.step[bounds[run] : bounds[run + 1]]
        part = columns[bounds[run] : bounds[run + 1]]
        part[:, len(TWIN) :] = elsewhere[run]
        if len(steps) and (twin := twin_of.get(run)) is not None:
            part[:, : len(TWIN)] = _of_twin(tokens[run], tokens[twin], right[twin])[steps]
    features = np.concatenate([risk.features, columns], axis=1)
    return RiskSet(runs, risk.run, risk.step, features, (*risk.names, *TWIN, *PROMPT))


def _twins(runs: pd.DataFrame, results: Sequence[ConditionResult]) -> Mapping[int, int]:
    """Each run's twin by their places in ``runs``."""
    keys = zip(runs["experiment"], runs["condition"], runs["prompt"], strict=True)
    place = {key: index for index, key in enumerate(keys)}
    baseline = {}
    for result in results:
        experiment = result.condition.experiment
        found = find_baseline([r for r in results if r.condition.experiment == experiment], result)
        if found is not None:
            baseline[experiment, result.label] = found.label
    twins = {}
    for (experiment, condition, prompt), index in place.items():
        twin = place.get((experiment, baseline.get((experiment, condition)), prompt))
        if twin is not None and twin != index:
            twins[index] = twin
    return twins


def _of_twin(run: Tokens, twin: Tokens, right: bool) -> np.ndarray:
    """`TWIN` at each token of a run, ``[T, len(TWIN)]``."""
    (ids, entropy), (twin_ids, twin_entropy) = run, twin
    length, shared = len(ids), min(len(ids), len(twin_ids))
    equal = np.zeros(length, dtype=bool)
    equal[:shared] = np.array(ids[:shared]) == np.array(twin_ids[:shared])
    same = np.logical_and.accumulate(equal)
    first = int(same.sum())  # token of the first difference
    steps = np.arange(length)
    gap = np.full(length, np.nan)
    gap[:first] = entropy[:first] - twin_entropy[:first]
    grams = {tuple(twin_ids[end - GRAM : end]) for end in range(GRAM, len(twin_ids) + 1)}
    known = [tuple(ids[end - GRAM : end]) in grams for end in range(GRAM, length + 1)]
    known = pd.Series([np.nan] * min(GRAM - 1, length) + known[: max(0, length - GRAM + 1)], dtype=float)
    recent = known.rolling(RECENT, min_periods=1).mean().to_numpy()
    columns = (
        same,
        np.maximum(0, steps - first + 1),
        gap,
        recent,
        np.full(length, right),
        np.full(length, len(twin_ids)),
        len(twin_ids) - 1 - steps,
    )
    return np.stack(columns, axis=1).astype(np.float32)


def _elsewhere(runs: pd.DataFrame, right: np.ndarray) -> np.ndarray:
    """`PROMPT` of each run, ``[runs, len(PROMPT)]``; NaN where no other condition has the prompt."""
    compressed = (runs["press"] != NONE).to_numpy()
    frame = pd.DataFrame(
        {
            "n": compressed.astype(float),
            "fails": (runs["failed"].to_numpy() & compressed).astype(float),
            "right": (right & compressed).astype(float),
        }
    )
    sums = frame.groupby([runs["task"].to_numpy(), runs["prompt"].to_numpy()]).transform("sum")
    others = sums - frame
    with np.errstate(invalid="ignore"):
        return (others[["fails", "right"]].to_numpy() / others[["n"]].to_numpy()).astype(np.float32)
