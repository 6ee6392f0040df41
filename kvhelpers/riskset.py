"""Tokens at risk: the tokens of each run at which failure had not begun, what was known then, and what came of it.

A run ends, for a predictor, with the first of these events (competing, one per run):

loop       the onset of a loop, its first token (`failures`)
overrun    the answer is there (``#### 18``), but the run goes on for at least 20 tokens; the onset is the first token after
           the answer. This is the rule for non-termination: it does not look at the position, as a limit on tokens would
end        the run ended by itself before any onset, whether the answer is right or not
censored   the limit on tokens or time was reached before any of these, or an error stopped the run: what would have come is
           unknown. A loop is known by its third cycle only, so a run that may have begun to loop in its last 64 tokens looks
           the same as one that has not: it counts as seen up to there

The tokens at risk are those from new token 1 (the first that sees the compressed cache) to the last before the event. A
failure whose onset is at token 0 or 1 has none: nothing could warn of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kvhelpers.answers import STRICT
from kvhelpers.causal import NAMES, READS, Feature, check_causal, run_features
from kvhelpers.errors import InputError
from kvhelpers.experiment import finished_cells
from kvhelpers.generation import EOS, STOP_STRING
from kvhelpers.paths import find_results
from kvhelpers.prediction import FIRST_TOKEN
from kvhelpers.results import CellResult
from kvhelpers.runs import removed_share, run_signals
from kvhelpers.tables import is_invalid

LOOP, OVERRUN, END, CENSORED = "loop", "overrun", "end", "censored"
EVENTS = (LOOP, OVERRUN, END, CENSORED)
GOES_ON = 20  # tokens after the answer
UNSURE = 64  # last tokens of a censored run, in which an onset may not show yet


@dataclass(frozen=True)
class RiskSet:
    """Tokens at risk and the runs they belong to.

    runs : one row per run: ``experiment, task, cell, press, removed, prompt, prompt_index, tokens, event, time`` (the event's
        token; for censored runs the first token of which it is not known whether it is an onset); ``failed``: the event is a
        loop or an overrun.
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

    def label(self, horizon: int) -> np.ndarray:
        """Whether a failure begins within the next ``horizon`` tokens, ``[N]``: 1, 0, or NaN where censoring hides it."""
        time, failed = self.runs["time"].to_numpy()[self.run], self.runs["failed"].to_numpy()[self.run]
        unknown = (self.runs["event"] == CENSORED).to_numpy()[self.run] & (self.step + horizon >= time)
        return np.where(unknown, np.nan, failed & (time - self.step <= horizon))

    def columns(self, names: Sequence[str]) -> np.ndarray:
        """Some features, ``[N, len(names)]``. Raises InputError for a name that is none."""
        if missing := [name for name in names if name not in self.names]:
            raise InputError(f"feature {missing[0]!r} is not in the risk set; it has {', '.join(self.names)}")
        return self.features[:, [self.names.index(name) for name in names]]

    def hash(self) -> str:
        """Hex SHA-256 of the tokens at risk, their features and events: what a model was trained on."""
        digest = hashlib.sha256(self.runs.to_csv(index=False).encode())
        for part in (self.run, self.step, self.features):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()

    def part(self, keep: np.ndarray) -> RiskSet:
        """Only these tokens at risk, by a mask ``[N]`` or their indices; the runs stay."""
        return RiskSet(self.runs, self.run[keep], self.step[keep], self.features[keep], self.names)


def read_risk_set(
    experiments: Sequence[str], root: str | None = None, n_prompts: int | None = None
) -> tuple[RiskSet, list[CellResult]]:
    """The risk set of some experiments, of their first ``n_prompts`` prompts or all, and their cells; see `build`.

    Results are looked for as `paths.find_results` does.

    Raises
    ------
    InputError : an experiment that has no finished cell, a number of prompts that is none, or as `build`.
    """
    if isinstance(experiments, str) or not experiments:
        raise InputError(f"learn_from {experiments!r} is not allowed; it is a list of experiment names")
    if n_prompts is not None and (isinstance(n_prompts, bool) or not isinstance(n_prompts, int) or n_prompts < 2):
        raise InputError(f"n_prompts {n_prompts!r} is not allowed; it is a whole number, at least 2, or None for all")
    cells = [cell for name in experiments for cell in finished_cells(name, find_results(name, root))]
    return build(cells, n_prompts=n_prompts), cells


def build(
    cells: Sequence[CellResult], own_features: Mapping[str, Feature] | None = None, n_prompts: int | None = None
) -> RiskSet:
    """The risk set of some cells, of one experiment or several.

    Cells whose flags take away their meaning are left out, and prompts after the first ``n_prompts`` if given. ``removed``
    (measured share of the prompt's cache) and one column ``press_<name>`` for each press are there as features for ablations.
    ``own_features`` adds features by name; each is checked to be causal.

    Raises
    ------
    InputError : no run fails, or fewer than two prompts; a signals file that lacks a column; a feature that looks ahead.
    """
    own_features = own_features or {}
    cells = [cell for cell in cells if not is_invalid(cell, None)]
    presses = list(dict.fromkeys(cell.config["press"] for cell in cells))
    rows, parts = [], []
    for cell in cells:
        for record, tokens in run_signals(cell, ["token_id", "char_end", *READS], n_prompts):
            row = _run(cell, record, tokens["char_end"].to_numpy())
            rows.append(row)
            parts.append(_at_risk(tokens, row, presses, own_features))
    runs = pd.DataFrame(rows)
    if not len(runs) or not runs["failed"].any():
        raise InputError("no run fails in these experiments: there is nothing to learn; name one whose runs loop")
    if runs["prompt"].nunique() < 2:
        raise InputError("there is one prompt only; folds that share no prompt need at least two")
    counts = [len(part) for part in parts]
    return RiskSet(
        runs,
        np.repeat(np.arange(len(runs)), counts),
        np.concatenate([np.arange(FIRST_TOKEN, FIRST_TOKEN + count) for count in counts]),
        np.concatenate(parts),
        (*NAMES, *own_features, "removed", *(f"press_{press}" for press in presses)),
    )


def event_of(record: Mapping, char_ends: np.ndarray) -> tuple[str, int]:
    """A run's event and its token, from its record and, for each token, the characters of the text up to its end."""
    failures, n = record["failures"], record["n_tokens"]
    onsets = {LOOP: failures["loop_onset"] if failures["looping"] else None, OVERRUN: _overrun(record["text"], char_ends)}
    onsets = {event: onset for event, onset in onsets.items() if onset is not None}
    if onsets:
        return min(onsets.items(), key=lambda one: one[1])
    return (END, n - 1) if record["stop_reason"] in (EOS, STOP_STRING) else (CENSORED, max(0, n - UNSURE))


def _overrun(text: str, char_ends: np.ndarray) -> int | None:
    answer = STRICT.search(text)
    if answer is None:
        return None
    onset = int(np.searchsorted(char_ends, answer.end())) + 1
    return onset if len(char_ends) - onset >= GOES_ON else None


def _run(cell: CellResult, record: Mapping, char_ends: np.ndarray) -> dict:
    event, time = event_of(record, char_ends)
    return {
        "experiment": cell.config["experiment"],
        "task": cell.config["task"],
        "cell": cell.label,
        "press": cell.config["press"],
        "removed": removed_share(record),
        "prompt": record["prompt_id"],
        "prompt_index": record["prompt_index"],
        "tokens": record["n_tokens"],
        "event": event,
        "time": time,
        "failed": event in (LOOP, OVERRUN),
    }


def _at_risk(tokens: pd.DataFrame, row: Mapping, presses: Sequence[str], own: Mapping[str, Feature]) -> np.ndarray:
    """Features of a run's tokens at risk; only what was there by then is looked at."""
    end = max(int(row["time"]), 0)
    ids, signals = tokens["token_id"].tolist()[:end], {name: tokens[name].to_numpy()[:end] for name in READS}
    found = [run_features(ids, signals)[FIRST_TOKEN:]]
    for name, compute in own.items():
        if len(ids):
            check_causal(name, compute, tokens["token_id"].tolist(), {key: tokens[key].to_numpy() for key in READS})
        found.append(np.asarray(compute(ids, signals), dtype=np.float32)[FIRST_TOKEN:, None])
    given = [row["removed"], *(press == row["press"] for press in presses)]
    found.append(np.tile(np.array(given, dtype=np.float32), (len(found[0]), 1)))
    return np.concatenate(found, axis=1)
