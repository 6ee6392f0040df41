"""Features of a run's inside (`generation.inner_signals`), for the compressed runs of conditions whose every
run has been fed again (the command ``replay``).

course      KL divergence and overlap from step to step, their means and spreads over 8 and 32 tokens; the
            same of the alternatives' entropy and of the varentropy
evicted     what the press took, one number a run
inside      cosines of hidden states with earlier ones
components  the first 32 principal components of the middle hidden state, of training prompts
attention   weights on the sink, the prompt and the run's own tokens
sparse      divergence from the full cache at every 8th token, as last measured, mean and largest
oracle      the same at every token: nobody has it while the run goes on, unless the full cache is kept
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA

from kvhelpers.errors import InputError
from kvhelpers.experiment.results import ConditionResult
from kvhelpers.hazard.predictors import SEED
from kvhelpers.hazard.risk_set import RiskSet, build
from kvhelpers.hazard.splits import Split
from kvhelpers.paths import replay_path
from kvhelpers.presses.registry import NONE
from kvhelpers.records import ATTENTION, COURSE, EVICTED, FULL, INSIDE

SIGNALS = (*COURSE, *INSIDE, *ATTENTION, *FULL)  # columns of a stored replay
WINDOWS, EVERY, COMPONENTS = (8, 32), 8, 32
MOVING = (*COURSE, "alt_entropy", "varentropy")
ROUNDING = 1e-3  # nats by which rounding alone lets entropies differ
TOLERANCE = 0.2  # nats: where scores tie, rounding decides which token a press keeps

_COURSE = (*COURSE, *(f"{name}_{what}{w}" for w in WINDOWS for what in ("mean", "std") for name in MOVING))
_SPARSE = (*(f"sparse_{name}" for name in FULL), "sparse_kl_mean", "sparse_kl_max")
_ORACLE = (
    *FULL,
    *(f"full_kl_mean{w}" for w in WINDOWS),
    "full_kl_mean",
    "full_kl_max",
    "full_logprob_gap_mean8",
)
COMPONENT_NAMES = tuple(f"component{index}" for index in range(COMPONENTS))
INNER_FAMILIES = {
    "course": tuple(dict.fromkeys(_COURSE)),
    "evicted": EVICTED,
    "inside": INSIDE,
    "components": COMPONENT_NAMES,
    "attention": ATTENTION,
    "sparse": _SPARSE,
    "oracle": _ORACLE,
}
STORED = tuple(name for family in INNER_FAMILIES if family != "components" for name in INNER_FAMILIES[family])


@dataclass(frozen=True)
class InnerSet:
    """A risk set with the features of all families but the components, and of each token at risk the middle
    hidden state ``[N, d]``. ``conditions`` are the replayed ones, ``left_out`` those that are not; ``off`` is
    by how many nats a replayed entropy differs from the stored one at most, ``parted`` counts the runs where
    it is by more than rounding.
    """

    risk: RiskSet
    middle: np.ndarray
    conditions: tuple[str, ...]
    left_out: tuple[str, ...]
    off: float
    parted: int

    def with_components(self, split: Split) -> RiskSet:
        """The risk set with the components, fitted on the split's training tokens."""
        train = split.train[self.risk.run]
        states = self.middle.astype(np.float32)
        found = PCA(COMPONENTS, svd_solver="randomized", random_state=SEED).fit(states[train])
        features = np.concatenate([self.risk.features, found.transform(states).astype(np.float32)], axis=1)
        return replace(self.risk, features=features, names=(*self.risk.names, *COMPONENT_NAMES))


def read_inner_set(results: Sequence[ConditionResult]) -> InnerSet:
    """The inner set of one experiment's conditions.

    Raises
    ------
    InputError : no compressed condition is replayed whole; a replay that is not of its results, or whose
        entropies are not those stored.
    """
    compressed = [result for result in results if result.condition.press != NONE and not result.is_invalid]
    whole = build(compressed)
    bounds = np.searchsorted(whole.run, np.arange(len(whole.runs) + 1))
    by_label = {result.label: result for result in compressed}
    lacks_nothing = bounds[:-1] == bounds[1:]
    present = lacks_nothing | [_path(row).is_file() for _, row in whole.runs.iterrows()]
    complete = pd.Series(present).groupby(whole.runs["condition"].to_numpy()).all()
    conditions = tuple(label for label in by_label if complete[label])
    if not conditions:
        name = compressed[0].condition.experiment if compressed else "the experiment"
        raise InputError(f"no compressed condition of {name} is replayed whole; run the command replay on it")
    risk = build([by_label[label] for label in conditions])
    bounds = np.searchsorted(risk.run, np.arange(len(risk.runs) + 1))
    tables, states, off, parted = [], [], 0.0, 0
    for run in range(len(risk.runs)):
        part = slice(bounds[run], bounds[run + 1])
        if part.start == part.stop:
            continue
        row = risk.runs.loc[run]
        with np.load(_path(row)) as stored:
            signals, gone, entropy, middle = (
                stored[key] for key in ("signals", "evicted", "entropy", "middle")
            )
            if str(stored["condition_hash"]) != by_label[row["condition"]].condition_hash:
                raise InputError(f"{_path(row)} is a replay of another condition; delete it and replay again")
        outside = risk.part(part)
        differs = _differ(entropy, outside.columns(["entropy"])[:, 0])
        if differs > TOLERANCE:
            raise InputError(f"{_path(row)}: its entropies differ by {differs:.2g} nats from the stored ones")
        off, parted = max(off, differs), parted + (differs > ROUNDING)
        tables.append(inner_features(signals, outside.columns(["alt_entropy", "varentropy"]), gone))
        states.append(middle)
    features = np.concatenate([risk.features, np.concatenate(tables)], axis=1)
    known = RiskSet(risk.runs, risk.run, risk.step, features, (*risk.names, *STORED))
    left_out = tuple(label for label in by_label if label not in conditions)
    return InnerSet(known, np.concatenate(states), conditions, left_out, off, parted)


def inner_features(signals: np.ndarray, alternatives: np.ndarray, gone: np.ndarray) -> np.ndarray:
    """`STORED` of a run's tokens from the first compressed one on, float32 ``[T, F]``; no row knows a later
    one.

    Parameters
    ----------
    signals : `SIGNALS`, ``[T, 23]``.
    alternatives : entropy of the alternatives, and varentropy, ``[T, 2]``.
    gone : `EVICTED`, ``[7]``.
    """
    now = pd.DataFrame(signals, columns=SIGNALS)
    moving = now[list(COURSE)].assign(alt_entropy=alternatives[:, 0], varentropy=alternatives[:, 1])
    columns = {name: now[name] for name in SIGNALS}
    for w in WINDOWS:
        rolling = moving.rolling(w, min_periods=1)
        columns |= {f"{name}_mean{w}": values for name, values in rolling.mean().items()}
        columns |= {f"{name}_std{w}": values for name, values in rolling.std(ddof=0).items()}
        columns[f"full_kl_mean{w}"] = now["full_kl"].rolling(w, min_periods=1).mean()
    columns["full_kl_mean"], columns["full_kl_max"] = (
        now["full_kl"].expanding().mean(),
        now["full_kl"].cummax(),
    )
    columns["full_logprob_gap_mean8"] = now["full_logprob_gap"].rolling(8, min_periods=1).mean()
    measured = now[list(FULL)].where(pd.Series((np.arange(len(now)) + 1) % EVERY == 0), axis=0)
    columns |= {f"sparse_{name}": values for name, values in measured.ffill().items()}
    kl = measured["full_kl"]
    columns["sparse_kl_mean"], columns["sparse_kl_max"] = kl.expanding().mean().ffill(), kl.cummax().ffill()
    columns |= dict(zip(EVICTED, np.tile(gone[:, None], len(now)), strict=True))
    return np.stack([np.asarray(columns[name]) for name in STORED], axis=1).astype(np.float32)


def _path(row: pd.Series):
    return replay_path(row["experiment"], row["condition"], row["prompt_index"])


def _differ(replayed: np.ndarray, stored: np.ndarray) -> float:
    if len(replayed) != len(stored):
        return float("inf")
    return float(np.abs(replayed - stored).max(initial=0))
