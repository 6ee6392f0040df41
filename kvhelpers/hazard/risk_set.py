"""Tokens at risk: the tokens of each run at which failure had not begun, what was known then, and what came
of it.

The tokens at risk are those from new token 1 (the first that sees the compressed cache) to the last before
the run's event (`events`). A failure whose onset is at token 0 or 1 has none: nothing could warn of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from kvhelpers.errors import InputError
from kvhelpers.experiment.grid import finished_results
from kvhelpers.experiment.results import ConditionResult
from kvhelpers.frames import run_signals
from kvhelpers.hazard.events import Event, event_of
from kvhelpers.hazard.features import FAMILIES, NAMES, READS, Feature, check_causal, run_features
from kvhelpers.paths import find_results
from kvhelpers.records import FIRST_COMPRESSED_TOKEN, Record, StopReason


@dataclass(frozen=True)
class RiskSet:
    """Tokens at risk and the runs they belong to.

    runs : one row per run: ``experiment, task, condition, press, removed, prompt, prompt_index, tokens,
        correct, stopped`` (by an error or the clock)``, event, time`` (the event's token, see
        `events.event_of`); ``failed``: the event is a loop or an overrun; ``task`` says the task and the
        model, ``gsm8k of smollm2-135m``.
    run : index into ``runs`` of each token at risk, ``[N]``; ``step`` its number, ``[N]``.
    features : ``[N, F]`` float32, named by ``names``.
    """

    runs: pd.DataFrame
    run: np.ndarray
    step: np.ndarray
    features: np.ndarray
    names: tuple[str, ...]

    @property
    def prompts(self) -> np.ndarray:
        """The prompt of each token at risk."""
        return self.runs["prompt"].to_numpy()[self.run]

    def label(self, horizon: int | None) -> np.ndarray:
        """Whether a failure begins within the next ``horizon`` tokens, ``[N]``: 1, 0, or NaN where censoring
        hides it. Without a horizon, whether the run does anything but end by itself with the right answer;
        NaN for runs that an error or the clock stopped. Raises InputError for a horizon that is none.
        """
        if horizon is not None and (isinstance(horizon, bool) or not isinstance(horizon, int) or horizon < 1):
            raise InputError(f"horizon {horizon!r} is not allowed; it is a number of tokens, at least 1")
        if horizon is None:
            stopped = self.runs["stopped"].to_numpy(bool)
            return np.where(stopped, np.nan, ~self.ended(right=True))[self.run]
        time, failed = self.runs["time"].to_numpy()[self.run], self.runs["failed"].to_numpy()[self.run]
        unknown = self.has_event(Event.CENSORED)[self.run] & (self.step + horizon >= time)
        return np.where(unknown, np.nan, failed & (time - self.step <= horizon))

    def has_event(self, event: Event) -> np.ndarray:
        """Whether each run ended with this event, ``[runs]``."""
        return (self.runs["event"] == event).to_numpy()

    def ended(self, right: bool) -> np.ndarray:
        """Whether each run ended by itself before any failure with a right answer, or a wrong one,
        ``[runs]``.
        """
        return self.has_event(Event.END) & (self.runs["correct"] == right).to_numpy()

    def columns(self, names: Sequence[str], tokens: np.ndarray | None = None) -> np.ndarray:
        """Some features, ``[N, len(names)]``, of all tokens at risk or those in a mask. Raises InputError for
        a name that is none.
        """
        if missing := [name for name in names if name not in self.names]:
            raise InputError(f"feature {missing[0]!r} is not in the risk set; it has {', '.join(self.names)}")
        places = [self.names.index(name) for name in names]
        return self.features[:, places] if tokens is None else self.features[np.ix_(tokens, places)]

    def hash(self) -> str:
        """Hex SHA-256 of the tokens at risk, their features and events: what a model was trained on."""
        digest = hashlib.sha256(self.runs.to_csv(index=False).encode())
        for part in (self.run, self.step, self.features):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()

    def part(self, keep: np.ndarray) -> RiskSet:
        """Only these tokens at risk, by a mask ``[N]`` or their indices; the runs stay."""
        return RiskSet(self.runs, self.run[keep], self.step[keep], self.features[keep], self.names)

    @property
    def before_event(self) -> np.ndarray:
        """Which tokens come before their run's event, ``[N]``: all, unless `build` kept the whole runs."""
        return self.step < self.runs["time"].to_numpy()[self.run]


def read_risk_set(
    experiments: Sequence[str], root: str | None = None, n_prompts: int | None = None
) -> tuple[RiskSet, list[ConditionResult]]:
    """The risk set of some experiments, of their first ``n_prompts`` prompts or all, and their conditions;
    see `build`.

    Results are looked for as `paths.find_results` does.

    Raises
    ------
    InputError : an experiment that has no finished condition, a number of prompts that is none, or as
        `build`.
    """
    if isinstance(experiments, str) or not experiments:
        raise InputError(f"learn_from {experiments!r} is not allowed; it is a list of experiment names")
    for name in experiments:
        if experiments.count(name) > 1:
            raise InputError(f"learn_from names {name!r} twice, so that its runs would count twice; drop one")
    if n_prompts is not None and (
        isinstance(n_prompts, bool) or not isinstance(n_prompts, int) or n_prompts < 2
    ):
        raise InputError(
            f"n_prompts {n_prompts!r} is not allowed; it is a whole number, at least 2, or None for all"
        )
    results = [result for name in experiments for result in finished_results(name, find_results(name, root))]
    return build(results, n_prompts=n_prompts), results


def build(
    results: Sequence[ConditionResult],
    own_features: Mapping[str, Feature] | None = None,
    n_prompts: int | None = None,
    whole: bool = False,
) -> RiskSet:
    """The risk set of some conditions, of one experiment or several.

    Conditions whose flags take away their meaning are left out, and prompts after the first ``n_prompts`` if
    given. ``removed`` (measured share of the prompt's cache) and one column ``press_<name>`` for each press
    are there as features for ablations. ``own_features`` adds features by name; each is checked to be causal.
    ``whole`` keeps the tokens from the event on, too, which are not at risk. Features of a signal that a
    signals file lacks are left out.

    Raises
    ------
    InputError : no run fails, or fewer than two prompts; a signals file that cannot be read; a feature that
        looks ahead.
    """
    own_features = own_features or {}
    results = [result for result in results if not result.is_invalid]
    presses = list(dict.fromkeys(result.condition.press for result in results))
    there = [_columns(result) for result in results]
    read = [name for name in READS if all(name in names for names in there)]
    rows, parts = [], []
    for result in results:
        for record, tokens in run_signals(result, ["token_id", "char_end", *read], n_prompts):
            row = _run(result, record, tokens["char_end"].to_numpy())
            rows.append(row)
            end = record.n_tokens if whole else max(int(row["time"]), 0)
            parts.append(_features(tokens, read, end, row, presses, own_features))
    runs = pd.DataFrame(rows)
    if not len(runs) or not runs["failed"].any():
        raise InputError(
            "no run fails in these experiments: there is nothing to learn; name one whose runs loop"
        )
    if runs["prompt"].nunique() < 2:
        raise InputError("there is one prompt only; folds that share no prompt need at least two")
    counts = [len(part) for part in parts]
    first = FIRST_COMPRESSED_TOKEN
    names = (*NAMES, *own_features, "removed", *(f"press_{press}" for press in presses))
    reads = {name: signals for family in FAMILIES.values() for name, signals in family.items()}
    known = [place for place, name in enumerate(names) if set(reads.get(name, ())) <= set(read)]
    return RiskSet(
        runs,
        np.repeat(np.arange(len(runs)), counts),
        np.concatenate([np.arange(first, first + count) for count in counts]),
        np.concatenate([part[:, known] for part in parts]),
        tuple(names[place] for place in known),
    )


def _columns(result: ConditionResult) -> Collection[str]:
    """What a condition's signals file has; one that cannot be read is named when its runs are read."""
    try:
        return pq.read_schema(result.signals_path).names
    except (OSError, pa.ArrowException):
        return READS


def _run(result: ConditionResult, record: Record, char_ends: np.ndarray) -> dict:
    event, time = event_of(record, char_ends)
    return {
        "experiment": result.condition.experiment,
        "task": f"{result.condition.task} of {result.condition.model}",
        "condition": result.label,
        "press": result.condition.press,
        "removed": record.removed,
        "prompt": record.prompt_id,
        "prompt_index": record.prompt_index,
        "tokens": record.n_tokens,
        "correct": record.correct,
        "stopped": record.stop_reason in (StopReason.ERROR, StopReason.TIMEOUT),
        "event": event,
        "time": time,
        "failed": event.is_failure,
    }


def _features(
    tokens: pd.DataFrame,
    read: Sequence[str],
    end: int,
    row: Mapping,
    presses: Sequence[str],
    own_features: Mapping[str, Feature],
) -> np.ndarray:
    """Features of a run's tokens from the first compressed one up to ``end``; only what was there by then is
    looked at.
    """
    ids, signals = tokens["token_id"].tolist(), {name: tokens[name].to_numpy() for name in read}
    seen_ids, seen_signals = ids[:end], {name: values[:end] for name, values in signals.items()}
    parts = [run_features(seen_ids, seen_signals)[FIRST_COMPRESSED_TOKEN:]]
    for name, compute in own_features.items():
        if seen_ids:
            check_causal(name, compute, ids, signals)
        values = np.asarray(compute(seen_ids, seen_signals), dtype=np.float32)
        parts.append(values[FIRST_COMPRESSED_TOKEN:, None])
    given = [row["removed"], *(press == row["press"] for press in presses)]
    parts.append(np.tile(np.array(given, dtype=np.float32), (len(parts[0]), 1)))
    return np.concatenate(parts, axis=1)
