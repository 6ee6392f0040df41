"""Results as two tidy frames, `runs` and `tokens`, and what is estimated from them as rows of one long frame.

`runs` has a row per prompt and condition:

================  ========================================================================================
run, baseline     key of the run, and of the same prompt's run without compression (its own, if it is one)
condition         the condition's label; its parts are columns too, mappings and lists as JSON text
setting, fields   how its prompts differ from usual ones, and that beside the press's own fields, for people
dtype, attn       as they were resolved, not as they were asked for
valid             False where a flag takes away the meaning of half of the condition's runs
weak_baseline     True where the uncompressed runs are right too rarely for a drop in accuracy to be seen
prompt            the prompt's id; the same prompt has the same id in every condition
correct, looping, non_termination, wrong_answer, catastrophic    outcomes, see `scoring.failures`
answer            the answer that counts; ``strict_answer`` is what strict-match finds
strict, flexible  whether it ended by itself and is right by what strict-match, or flexible-extract, finds,
                  compared as a number (18.00 is 18); a mark decides where there is one (`scoring.summary`)
format_lost, right_unended, loop_ended, loop_left    other endings, see `scoring.summary`
mode              the failure mode, see `scoring.failure_modes`
onset, detected   new tokens at which the loop starts and is certain, of looping runs; else missing;
onset_char        characters of the text before the loop's onset
ended, errored    it ended by itself; it stopped by an error that is not the model's doing
tokens            new tokens
thinking_tokens, answering_tokens, never_left_thinking    new tokens up to the end of a thinking model's
                  thoughts, and behind it; whether there are none; only where there are runs of such a model
compressed_tokens, kept_tokens, removed    tokens that the press was given, the prompt's or its context's; of
                  these kept (a mean over heads), share removed; missing if the prefill failed
nominal_bytes     of the cache after the prefill, each value at its format's bits (`records.CacheReport`)
sink_kept, question_kept    share of heads that hold the first token; of the question's tokens, share held
batch_size        rows that could decode together
baseline_correct, baseline_looping    outcomes of the run without compression; missing where there is none
================  ========================================================================================

`tokens` has a row per new token: the run's key, experiment, condition and prompt, and the signals.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from kvhelpers import own
from kvhelpers.errors import InputError
from kvhelpers.experiment.results import ConditionResult, find_baseline
from kvhelpers.experiment.tables import CONDITION_SCHEMA
from kvhelpers.paths import REPOSITORY, figures_dir, relative, write_atomic
from kvhelpers.presses.registry import NONE
from kvhelpers.records import Record, StopReason
from kvhelpers.scoring.failure_modes import failure_mode
from kvhelpers.scoring.flags import baseline_is_weak
from kvhelpers.scoring.summary import ENDINGS
from kvhelpers.stats import SIGNIFICANCE, Estimate, estimate, wilson
from kvhelpers.stats.bootstrap import Statistic

CSV_DIGITS = 6
OUTCOMES = ("looping", "non_termination", "wrong_answer", "catastrophic")
RESOLVED = ("dtype", "attn")  # parts of a condition that its identity knows better
THINKING = ["thinking_tokens", "answering_tokens", "never_left_thinking"]
TYPES = dict.fromkeys(
    (
        *THINKING[:2],
        "budget",
        "examples_seed",
        "onset",
        "onset_char",
        "detected",
        "batch_size",
        "compressed_tokens",
        "passes",
        "drafted",
        "accepted",
    ),
    "Int64",
)
TYPES |= dict.fromkeys(("baseline_correct", "baseline_looping"), "boolean")
TYPES |= dict.fromkeys(
    (
        "ratio",
        "kept_tokens",
        "sink_kept",
        "question_kept",
        "removed",
        "wall_seconds",
        "cache_bytes",
        "nominal_bytes",
    ),
    float,
)
LONG = ("question", "subject", "metric", "estimate", "low", "high", "n", "prompts", "q", "verdict")


def runs(results: Sequence[ConditionResult]) -> pd.DataFrame:
    """One row per run, in the order of the conditions and prompts."""
    by_experiment: dict[str, list[ConditionResult]] = {}
    for result in results:
        by_experiment.setdefault(result.condition.experiment, []).append(result)
    rows = []
    for result in results:
        baseline = find_baseline(by_experiment[result.condition.experiment], result)
        whole = _of_condition(result) | {
            "weak_baseline": baseline is not None and baseline_is_weak(baseline.summary.accuracy.count)
        }
        records = {record.prompt_id: record for record in baseline.records} if baseline else {}
        for record in result.records:
            other = records.get(record.prompt_id)
            beside = {
                "baseline": _key(baseline, other) if other else None,
                "baseline_correct": other.correct if other else None,
                "baseline_looping": other.failures.looping if other else None,
            }
            rows.append(whole | _of_run(result, record) | beside)
    table = pd.DataFrame(rows)
    table = table.astype({name: kind for name, kind in TYPES.items() if name in table})
    return table.drop(columns=THINKING) if table["thinking_tokens"].isna().all() else table


def uncompressed(runs: pd.DataFrame) -> pd.Series:
    """Which runs have the whole cache, in full."""
    parts = [name for name in ("press", "cache_type_k", "cache_type_v") if name in runs]
    return (runs[parts] == NONE).all(axis=1)


def _key(result: ConditionResult, record: Record) -> str:
    return f"{result.condition.experiment}/{result.label}/{record.prompt_id}"


def _of_condition(result: ConditionResult) -> dict:
    parts = result.condition.model_dump() | {
        name: result.identity[name] for name in RESOLVED if name in result.identity
    }
    parts |= {
        name: json.dumps(value, sort_keys=True)
        for name, value in parts.items()
        if isinstance(value, dict | list)
    }
    about = {
        "condition": result.label,
        "press": own.short(result.condition.press),
        "setting": result.condition.setting,
        "fields": result.condition.fields,
        "valid": not result.is_invalid,
        "signals_file": f"{result.path.parent.name}/{result.signals_path.name}",
    }
    return parts | about


def _of_run(result: ConditionResult, record: Record) -> dict:
    cache, drafting, looping = record.cache, record.drafting, record.failures.looping
    thinking = record.thinking_tokens
    return {
        "run": _key(result, record),
        "prompt_index": record.prompt_index,
        "prompt": record.prompt_id,
        "question": record.question,
        "reference": record.reference,
        "text": record.text,
        "answer": record.answer.value,
        "strict_answer": record.answer.strict,
        "correct": record.correct,
        **{name: rule(record) for name, rule in ENDINGS.items()},
        **{name: getattr(record.failures, name) for name in OUTCOMES},
        "mode": str(failure_mode(record, result.examples)),
        "onset": record.onset,
        "onset_char": record.loop_onset_char if looping else None,
        "detected": record.failures.loop_detected if looping else None,
        "stop_reason": str(record.stop_reason),
        "ended": record.stop_reason.ended,
        "errored": record.stop_reason == StopReason.ERROR,
        "error": record.error,
        "tokens": record.n_tokens,
        "thinking_tokens": thinking,
        "answering_tokens": None if thinking is None else record.n_tokens - thinking,
        "prompt_tokens": record.prompt_tokens,
        "compressed_tokens": cache.prompt_tokens if cache else None,
        "kept_tokens": cache.kept_tokens if cache else None,
        "sink_kept": cache.sink_kept if cache else None,
        "question_kept": cache.question_kept if cache else None,
        "removed": record.removed,
        "cache_bytes": cache.cache_bytes if cache else None,
        "nominal_bytes": cache.nominal_bytes if cache else None,
        "compressions": len(record.compressions),
        "flags": "; ".join(record.flags),
        "seconds": record.seconds,
        "wall_seconds": record.wall_seconds,
        "batch_size": record.batch_size,
        **{name: getattr(drafting, name, None) for name in ("passes", "drafted", "accepted")},
    }


def tokens(results: Sequence[ConditionResult], names: Sequence[str] | None = None) -> pd.DataFrame:
    """One row per new token, in the order of `runs`: with these signals, or with all that all files have.

    Raises
    ------
    InputError : a signals file that cannot be read, lacks a column, or does not fit its results.
    """
    parts = []
    for result in results:
        table = result.signals(None if names is None else [*dict.fromkeys(("prompt_index", "step", *names))])
        table = table.drop(columns=[name for name in CONDITION_SCHEMA.names if name in table])
        found = table["prompt_index"].value_counts()
        for record in result.records:
            if (there := found.get(record.prompt_index, 0)) != record.n_tokens:
                raise InputError(
                    f"signals file {relative(result.signals_path)} has {there} tokens of prompt "
                    f"{record.prompt_id}, its results say {record.n_tokens}; delete both and run the "
                    "condition again"
                )
        prompts = {record.prompt_index: record.prompt_id for record in result.records}
        keys = {record.prompt_index: _key(result, record) for record in result.records}
        about = {
            "run": table["prompt_index"].map(keys),
            "experiment": result.condition.experiment,
            "condition": result.label,
            "prompt": table["prompt_index"].map(prompts),
        }
        table = table.sort_values(["prompt_index", "step"], kind="stable")
        parts.append(pd.DataFrame(about, index=table.index).join(table))
    return pd.concat(parts, join="inner", ignore_index=True)


def row(question: str, subject: str, metric: str, value: float, **others: object) -> dict:
    """A row of the long frame, of which ``others`` are the columns that are known."""
    empty = dict.fromkeys(("low", "high", "q"), np.nan) | {"n": None, "prompts": None, "verdict": None}
    named = {"question": question, "subject": subject, "metric": metric, "estimate": float(value)}
    return {name: (named | empty | others)[name] for name in LONG}


def long_frame(rows: Sequence[dict]) -> pd.DataFrame:
    """The long frame of rows, with its columns in order and counts as whole numbers."""
    return pd.DataFrame(rows, columns=LONG).astype({"n": "Int64", "prompts": "Int64"})


def read_long(name: str) -> pd.DataFrame:
    """The long frame of an experiment that was written last, else the repository's.

    Raises
    ------
    InputError : there is none, or the file is no such frame.
    """
    path = figures_dir(name) / "estimates.csv"
    path = path if path.is_file() else REPOSITORY / "figures" / name / path.name
    try:
        return long_frame(pd.read_csv(path, keep_default_na=False, na_values="").to_dict("records"))
    except (OSError, ValueError) as error:
        raise InputError(f"{relative(path)} cannot be read as numbers of {name!r} ({error!r})") from error


def rate_row(question: str, subject: str, metric: str, count: int, n: int) -> dict:
    """A rate with its Wilson 95 % interval, of ``n`` runs with a prompt each."""
    rate = wilson(count, n)
    return row(question, subject, metric, rate.rate, low=rate.low, high=rate.high, n=n, prompts=n)


def bootstrap_row(
    question: str, subject: str, metric: str, statistic: Statistic, prompts: Sequence[str]
) -> dict:
    """A statistic with its 95 % interval by bootstrap over prompts (`stats.estimate`)."""
    return estimate_row(question, subject, metric, estimate(statistic, prompts))


def estimate_row(question: str, subject: str, metric: str, made: Estimate | None) -> dict:
    """An estimate that is already there; missing where the data leave it undefined."""
    if made is None:
        return row(question, subject, metric, np.nan)
    ends = {"low": made.low, "high": made.high}
    known = {name: end for name, end in ends.items() if end is not None}
    return row(question, subject, metric, made.value, **known, n=made.n, prompts=made.prompts)


def as_estimate(one: object) -> Estimate:
    """A row of the long frame, as ``itertuples`` has it, as an estimate."""
    ends = (None if pd.isna(end) else end for end in (one.low, one.high))
    return Estimate(one.estimate, *ends, one.n, one.prompts)


def verdict(low: float, high: float, margin: float = 0.0, q: float | None = None) -> str:
    """What a difference's 95 % interval says, beside a margin within which a difference does not matter.

    ``lower`` and ``higher``: the interval lies beyond 0, and q, if there is one, is below .05; ``none seen``:
    it lies within the margin; else ``undecided``. A difference that is seen and lies within the margin is
    named by its direction.
    """
    if pd.isna(low) or pd.isna(high):
        return "undecided"
    if (low > 0 or high < 0) and (q is None or q < SIGNIFICANCE):
        return "higher" if low > 0 else "lower"
    return "none seen" if -margin <= low and high <= margin else "undecided"


def save_frames(tables: Mapping[str, pd.DataFrame], folder: Path) -> list[Path]:
    """Write those tables that have a row as ``<name>.csv``; return their paths. Missing values are empty."""
    paths = []
    for name, frame in tables.items():
        path = folder / f"{name}.csv"
        if len(frame):
            text = frame.round(CSV_DIGITS).to_csv(index=False, lineterminator="\n")
            paths.append(
                write_atomic(path, lambda temporary, text=text: temporary.write_text(text, encoding="utf-8"))
            )
        else:
            path.unlink(missing_ok=True)
    return paths


def run_signals(
    result: ConditionResult, names: Sequence[str], first: int | None = None
) -> Iterator[tuple[Record, pd.DataFrame]]:
    """Each record of a condition (or of its ``first`` ones) with the run's signals, a row per token.

    Raises
    ------
    InputError : as `tokens`.
    """
    table = tokens([result], names)
    by_prompt = dict(tuple(table.groupby("prompt_index")))
    for record in result.records[:first]:
        yield record, by_prompt.get(record.prompt_index, table[:0])
