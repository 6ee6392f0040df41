"""Features of a run so far: what a predictor may know when a token has been chosen, and nothing later.

There is one implementation, token by token (`FeatureStream`); a table of a run is the same stream fed to its
end. Families:

signals      the token's own signals (`generation.token_signals`)
rolling      means, extremes and spreads of signals over 4 to 32 tokens, over the run so far, and
             exponentially weighted
repetition   how much of the output so far repeats earlier output
canary       divergence from the full cache over the first tokens, as far as measured
             (`generation.full_cache`)
position     the number of the token

Share removed and press are no features of the stream; they are added where an ablation wants them
(`risk_set`).
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from kvhelpers.errors import InputError, unknown_name

WINDOWS = (4, 8, 16, 32)
HALF_LIVES = (3, 12)
OWN = ("entropy", "varentropy", "top1_prob", "margin", "top5_mass", "alt_entropy", "chosen_logprob")
ROLLED = ("entropy", "margin", "chosen_logprob", "top1_prob")
GRAMS = (1, 2, 3, 4, 8)
LONGEST = 64  # tokens of a repeated suffix that are told apart
CONFIDENT = 0.99  # top-1 probability

# by family: each feature with the signals that it reads
FAMILIES: dict[str, dict[str, tuple[str, ...]]] = {
    "signals": {name: (name,) for name in OWN},
    "rolling": {
        f"{name}_{what}{window}": (name,)
        for window in WINDOWS
        for what in ("mean", "max", "min", "std")
        for name in ROLLED
    }
    | {f"{name}_ew{half_life}": (name,) for half_life in HALF_LIVES for name in ROLLED}
    | {f"{name}_mean": (name,) for name in ROLLED}
    | dict.fromkeys(("entropy_max", "entropy_above_mean", "entropy_change"), ("entropy",))
    | {"confident_share16": ("top1_prob",), "tokens_since_spike": ("entropy",)},
    "repetition": dict.fromkeys(
        (
            *("repeated_suffix", "repeated_suffix_period", "repeated_suffix_max16"),
            *(f"gram{n}_seen" for n in GRAMS),
            *("distinct_share16", "distinct_share32", "repeated_bigrams16", "tokens_since_new"),
        ),
        (),
    ),
    "canary": dict.fromkeys(("kl_now", "kl_mean", "kl_max", "kl_last"), ("canary_kl",))
    | {"full_entropy_gap": ("canary_kl", "canary_entropy", "entropy")}
    | {"full_logprob_gap": ("canary_kl", "canary_chosen", "chosen_logprob")},
    "position": {"position": ()},
}
MAIN = ("signals", "rolling", "repetition", "canary")  # of the hazard
NAMES = tuple(itertools.chain(*FAMILIES.values()))
# the signals that a stream is fed, which need not be all that a run has
READS = tuple(dict.fromkeys(itertools.chain(*(s for family in FAMILIES.values() for s in family.values()))))

# token ids and signals of a run to ``[T]``
Feature = Callable[[Sequence[int], Mapping[str, np.ndarray]], np.ndarray]


def family_names(*families: str) -> tuple[str, ...]:
    """The features of some families. Raises InputError for a family that is none."""
    for family in families:
        if family not in FAMILIES:
            raise unknown_name("feature family", family, FAMILIES)
    return tuple(name for family in families for name in FAMILIES[family])


class FeatureStream:
    """The features of one run; `push` each new token in turn."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.recent = np.zeros((len(ROLLED), max(WINDOWS)))  # the last values, the newest on the right
        self.weighted = np.zeros((len(HALF_LIVES), len(ROLLED)))
        self.sums, self.top, self.spike = np.zeros(len(ROLLED)), -np.inf, 0
        self.seen, self.grams = set(), Counter()
        # by earlier token: how long a suffix of the output ends there too
        self.matches = np.zeros(0, dtype=np.int64)
        self.suffixes, self.repeated = deque(maxlen=16), deque(maxlen=16)
        self.last_new = 0
        self.canary: list[tuple[float, float, float]] = []

    def push(self, token_id: int, signals: Mapping[str, float]) -> np.ndarray:
        """Take the next token and its signals; return the features ``[len(NAMES)]`` known now, float32.

        ``signals`` has the names of `READS`; one that is missing or NaN leaves features missing that read it.
        """
        step, signals = len(self.tokens), {name: signals.get(name, np.nan) for name in READS}
        parts = (
            [signals[name] for name in OWN],
            self._rolling(step, signals),
            self._repetition(step, token_id),
            self._canary(signals),
            [step],
        )
        return np.array(list(itertools.chain(*parts)), dtype=np.float32)

    def _rolling(self, step: int, signals: Mapping[str, float]) -> list[float]:
        now = np.array([signals[name] for name in ROLLED])
        change = now[0] - self.recent[0, -1] if step else 0.0
        self.recent = np.concatenate([self.recent[:, 1:], now[:, None]], axis=1)
        rolled = []
        for window in WINDOWS:
            part = self.recent[:, -min(window, step + 1) :]
            rolled += [part.mean(1), part.max(1), part.min(1), part.std(1)]
        keep = 0.5 ** (1 / np.array(HALF_LIVES))[:, None] if step else 0.0
        self.weighted = keep * self.weighted + (1 - keep) * now
        self.sums += now
        means = self.sums / (step + 1)
        if now[0] >= self.top:
            self.top, self.spike = now[0], step
        confident = (self.recent[ROLLED.index("top1_prob"), -min(16, step + 1) :] > CONFIDENT).mean()
        rest = [self.top, now[0] - means[0], change, confident, step - self.spike]
        return [*np.concatenate([*rolled, self.weighted.ravel(), means]), *rest]

    def _repetition(self, step: int, token: int) -> list[float]:
        same = np.array(self.tokens, dtype=np.int64) == token
        self.matches = np.where(same, np.concatenate([[0], self.matches])[:step] + 1, 0)
        self.tokens.append(token)
        longest = int(self.matches.max(initial=0))
        period = step - int(np.flatnonzero(self.matches == longest)[-1]) if longest else 0
        self.suffixes.append(min(longest, LONGEST))
        counts = []
        for n in GRAMS:
            gram = tuple(self.tokens[-n:])
            counts.append(self.grams[gram] if len(gram) == n else 0)
            if len(gram) == n:
                self.grams[gram] += 1
        if token not in self.seen:
            self.seen.add(token)
            self.last_new = step
        self.repeated.append(counts[1] > 0)
        distinct = [len(set(self.tokens[-window:])) / min(window, step + 1) for window in (16, 32)]
        suffixes = [self.suffixes[-1], period, max(self.suffixes)]
        return [*suffixes, *counts, *distinct, np.mean(self.repeated), step - self.last_new]

    def _canary(self, signals: Mapping[str, float]) -> list[float]:
        now = signals["canary_kl"]
        if np.isfinite(now):
            gaps = (
                signals["entropy"] - signals["canary_entropy"],
                signals["chosen_logprob"] - signals["canary_chosen"],
            )
            self.canary.append((now, *gaps))
        if not self.canary:
            return [np.nan] * len(FAMILIES["canary"])
        kl, entropy, logprob = np.array(self.canary).T
        return [now, kl.mean(), kl.max(), kl[-1], entropy.mean(), logprob.mean()]


def run_features(token_ids: Sequence[int], signals: Mapping[str, np.ndarray]) -> np.ndarray:
    """Features of a whole run, ``[T, len(NAMES)]``: row t is what was known once token t had been chosen."""
    stream = FeatureStream()
    columns = {name: values.tolist() for name, values in signals.items() if name in READS}
    rows = [
        stream.push(token, {name: values[t] for name, values in columns.items()})
        for t, token in enumerate(token_ids)
    ]
    return np.stack(rows) if rows else np.zeros((0, len(NAMES)), dtype=np.float32)


def check_causal(
    name: str, compute: Feature, token_ids: Sequence[int], signals: Mapping[str, np.ndarray]
) -> None:
    """Refuse a feature of one's own that depends on later tokens.

    ``compute(token_ids, signals)`` gives ``[T]``. It is computed on the whole run and on its beginnings,
    which must agree.

    Raises
    ------
    InputError : they do not.
    """
    whole = np.asarray(compute(token_ids, signals), dtype=float)
    for end in sorted({1, len(token_ids) // 4, len(token_ids) // 2, len(token_ids) - 1} - {0}):
        part = np.asarray(
            compute(token_ids[:end], {key: values[:end] for key, values in signals.items()}), dtype=float
        )
        if not np.allclose(part, whole[:end], rtol=1e-6, atol=1e-9, equal_nan=True):
            raise InputError(
                f"feature {name!r} at some token before {end} changes with later tokens; a predictor must "
                "not know them"
            )
