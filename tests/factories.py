"""Conditions made for the purpose: outcomes, onsets and signals as a test wants them."""

import json
from functools import partial

import numpy as np
import pandas as pd
from pydantic import PrivateAttr

from kvhelpers.experiment.condition import Condition
from kvhelpers.experiment.plain import plain_hash
from kvhelpers.experiment.results import ConditionResult
from kvhelpers.experiment.seal import sealed
from kvhelpers.paths import results_dir
from kvhelpers.records import (
    CANARY,
    Answer,
    CacheReport,
    Example,
    Failures,
    Machine,
    Provenance,
    Record,
    StopReason,
    WindowLoop,
)
from kvhelpers.scoring.summary import summarize

LENGTH = 30
SMALL_EXPERIMENT = {
    "name": "small",
    "objective": "See that it runs.",
    "parameters": {"n_prompts": 2, "n_fewshot": 1, "max_new_tokens": 12, "device": "cpu"},
    "grid": [{"press": "none"}, {"press": "knorm", "ratio": 0.5}],
}

PROMPT_TOKENS = 100


class MadeResult(ConditionResult):
    """A condition whose signals are a frame that it holds, not a file."""

    _frame: pd.DataFrame = PrivateAttr()

    def signals(self, columns=None):
        return self._frame if columns is None else self._frame[list(columns)]


def in_schema_4(data):
    """A result's JSON as schema 4 had it: without what was added since, and sealed so."""
    for record in data["records"]:
        for added in ("prompt_hash", "thinking_tokens", "thinking_chars"):
            record.pop(added, None)
        record["answer"].pop("start", None)
    return data | {"schema_version": 4, "condition_hash": "0" * 64}


def reseal(path, **changes):
    """Renew the seal of a result whose files were changed, as somebody would who means it."""
    data = sealed(json.loads(path.read_text()) | changes, path.with_suffix(".parquet"))
    if data["schema_version"] == 4:  # it had a hash of each record
        data["seal"]["records"] = [plain_hash(record) for record in data["records"]]
    path.write_text(json.dumps(data))


def make_result(
    press, ratio, correct, onsets=(), text="some text", flags=(), entropy=None, stops=(), **fields
):
    """A condition of one run per entry of ``correct``; a run in ``onsets`` loops from there on and never
    ends.

    ``entropy`` maps prompts to the values of their tokens (30 falling ones where it has none), so that runs
    may have any length; ``stops`` maps prompts to stop reasons other than eos; ``fields`` are the
    condition's own, such as ``budget`` or ``press_kwargs``.
    """
    onsets, entropy, stops = dict(onsets), dict(entropy or {}), dict(stops)
    cache = CacheReport(
        prompt_tokens=PROMPT_TOKENS,
        kept_tokens=PROMPT_TOKENS * (1 - ratio),
        cache_bytes=1000,
        full_bytes=1000,
        sink_kept=1.0,
        window=None,
    )
    make_record = partial(_record, text=text, flags=tuple(flags), cache=cache)
    records, frames = [], []
    for index, right in enumerate(correct):
        values = np.asarray(entropy.get(index, np.linspace(1, 0, LENGTH)), dtype=float)
        stop = StopReason.MAX_NEW_TOKENS if index in onsets else StopReason(stops.get(index, "eos"))
        records.append(make_record(index, len(values), right, onsets.get(index), stop))
        frames.append(_tokens(index, values, len(text)))
    signals = pd.concat(frames, ignore_index=True)
    condition = Condition(
        experiment="made",
        model="m",
        press=press,
        ratio=ratio,
        n_fewshot=1,
        n_prompts=len(records),
        seed=1,
        max_new_tokens=LENGTH,
        **fields,
    )
    result = MadeResult(
        label=condition.label(),
        condition=condition,
        condition_hash="0" * 64,
        identity={"attn": "sdpa", "model_source": "random", "data": "generated"},
        provenance=Provenance(
            commit="c" * 40,
            clean=True,
            command="do it",
            versions={"torch": "2"},
            machine=Machine(system="Linux", processor="x", cores=2, device="cpu", dtype="float32"),
        ),
        finished="2026-01-01T00:00:00",
        seconds=1.0,
        examples=(Example(question="Tom has 6 pens. How many?", solution="#### 6"),),
        summary=summarize(records, signals),
        records=tuple(records),
        path=results_dir("made") / press / f"{condition.stem()}.json",
    )
    result._frame = signals
    return result


def _record(index, n_tokens, right, onset, stop, *, text, flags, cache):
    looping, never_ends = onset is not None, stop in (StopReason.MAX_NEW_TOKENS, StopReason.TIMEOUT)
    detected = onset + 1 if looping else None
    return Record(
        prompt_index=index,
        prompt_id=f"p/{index}",
        question="How many coins does Eva have?",
        reference="1",
        text=text,
        prompt_tokens=PROMPT_TOKENS,
        n_tokens=n_tokens,
        stop_reason=stop,
        error="broken" if stop == StopReason.ERROR else None,
        answer=Answer(strict="1" if right else None, flexible=None, decided_by="strict-match"),
        correct=right,
        failures=Failures(
            non_termination=never_ends,
            looping=looping,
            wrong_answer=not right,
            loop_onset=onset,
            loop_detected=detected,
            window_loop=WindowLoop(start=onset, detected=detected) if looping else None,
            periodic_loop=None,
        ),
        loop_onset_char=min(4, len(text)) if looping else None,
        cache=cache,
        flags=flags,
        seconds=1.0,
    )


def _tokens(index, values, n_chars):
    """A run's signals from its entropies: the others follow from them, or are constant."""
    steps = np.arange(len(values))
    columns = {"step": steps, "char_end": np.minimum(steps + 1, n_chars), "token_id": 1000 * index + steps}
    columns |= {"entropy": values, "varentropy": values, "top1_prob": np.exp(-values)}
    columns |= {"chosen_logprob": -values, "margin": 1.0, "top5_mass": 1.0, "alt_entropy": 1.0}
    return pd.DataFrame({"prompt_index": index, **columns, **dict.fromkeys(CANARY, np.nan)})


def change_records(result, **changes):
    """The condition with fields of its records changed; each is a value, or maps a record to its value. The
    summary stays as it is.
    """
    records = [
        record.model_copy(
            update={name: value(record) if callable(value) else value for name, value in changes.items()}
        )
        for record in result.records
    ]
    return result.model_copy(update={"records": tuple(records)})


def make_sweep():
    """Three presses on 20 prompts: all right, all but one right, all looping from token 3 on and wrong."""
    right = [True] * 20
    return [
        make_result("none", 0.0, right),
        make_result("knorm", 0.25, [*right[1:], False]),
        make_result("knorm", 0.5, [False] * 20, {index: 3 for index in range(20)}),
        make_result("tova", 0.5, right),
    ]
