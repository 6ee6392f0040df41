"""The numbers behind a log as tidy tables, one CSV file each, beside its figures.

Rates and shares are between 0 and 1, entropies in nats, ``low`` and ``high`` are 95 % intervals, ``n`` counts
runs unless a column says otherwise. Missing values are empty.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from kvhelpers.analysis.analyse import FIRST, Analysis
from kvhelpers.analysis.claims import JudgedClaim
from kvhelpers.analysis.comparisons import Comparisons, Tested
from kvhelpers.analysis.half_accuracy import HalfAccuracy
from kvhelpers.analysis.runs import signal_means
from kvhelpers.experiment.results import ConditionResult, find_baseline, flags_of, is_invalid
from kvhelpers.paths import relative, write_atomic
from kvhelpers.report.setup import without_home
from kvhelpers.scoring.summary import RATES, endings

DIGITS = 6
PARTS = ("count", "n", "rate", "low", "high")


def log_frames(
    results: Sequence[ConditionResult],
    analysis: Analysis,
    comparisons: Comparisons,
    claims: Sequence[JudgedClaim],
    half_accuracies: Sequence[HalfAccuracy],
) -> dict[str, pd.DataFrame]:
    """All tables of an experiment by the name of their file."""
    return {
        "conditions": conditions_frame(results),
        "comparisons": comparisons_frame(comparisons),
        "contrasts": contrasts_frame(comparisons),
        "claims": claims_frame(claims),
        "looping_pairs": looping_pairs_frame(comparisons),
        "half_accuracy": half_accuracy_frame(half_accuracies),
        "signals": signals_frame(results),
        "onset": onset_frame(analysis),
        "alarms": alarms_frame(analysis),
        "discriminators": discriminators_frame(analysis),
        "modes": modes_frame(analysis.runs),
    }


def save_frames(frames: Mapping[str, pd.DataFrame], folder: Path) -> list[Path]:
    """Write those tables that have a row as ``<name>.csv``; return their paths."""
    paths = []
    for name, frame in frames.items():
        path = folder / f"{name}.csv"
        if len(frame):
            text = frame.round(DIGITS).to_csv(index=False, lineterminator="\n")
            paths.append(
                write_atomic(path, lambda temporary, text=text: temporary.write_text(text, encoding="utf-8"))
            )
        else:
            path.unlink(missing_ok=True)
    return paths


def conditions_frame(results: Sequence[ConditionResult]) -> pd.DataFrame:
    """A row per condition and rate: its count, n and interval; tokens, cache, flags, and where its results
    come from.
    """
    rows = []
    for result in results:
        baseline = find_baseline(results, result)
        condition, summary = result.condition, result.summary
        about = {
            "condition": result.label,
            "press": condition.press,
            "ratio": condition.ratio,
            "budget": condition.budget,
            "press_kwargs": json.dumps(condition.press_kwargs, sort_keys=True),
            "setting": condition.setting,
        }
        made = {
            "valid": not is_invalid(result, baseline),
            "flags": "; ".join(f"{name} {count}" for name, count in flags_of(result, baseline).items()),
            "prompt_tokens": summary.prompt_tokens,
            "kept_tokens": summary.kept_tokens,
            "cache_bytes": summary.cache_bytes,
            "new_tokens": summary.avg_tokens,
            "seconds": result.seconds,
            "commit": result.provenance.commit,
            "condition_hash": result.condition_hash,
            "file": without_home(relative(result.path)),
        }
        rates = {name: getattr(summary, name) for name in RATES} | endings(result.records)
        for name, of_rate in rates.items():
            parts = {part: getattr(of_rate, part) for part in PARTS}
            rows.append(about | {"outcome": name} | parts | made)
    return pd.DataFrame(rows).astype({"budget": "Int64"})


def _test(tested: Tested) -> dict:
    comparison = tested.comparison
    return {
        "difference": comparison.difference,
        "low": comparison.low,
        "high": comparison.high,
        "only_first": comparison.only_first,
        "only_second": comparison.only_second,
        "n": comparison.n,
        "p": comparison.p,
        "q": tested.q,
        "verdict": str(tested.verdict),
    }


def comparisons_frame(comparisons: Comparisons) -> pd.DataFrame:
    """A row per compressed condition and outcome: second, the condition, against first, no compression."""
    return pd.DataFrame(
        {"condition": against.result.label, "outcome": outcome} | _test(tested)
        for against in comparisons.against_baseline
        for outcome, tested in (("accuracy", against.accuracy), ("loops or does not end", against.never_ends))
    )


def contrasts_frame(comparisons: Comparisons) -> pd.DataFrame:
    """A row per contrast and outcome. The condition ``compared`` is the second of the test, ``with`` is the
    first.
    """
    return pd.DataFrame(
        {
            "about": contrast.contrast.about,
            "compared": contrast.first.label,
            "with": contrast.second.label,
            "planned": contrast.contrast.planned,
            "outcome": outcome,
        }
        | _test(tested)
        for contrast in comparisons.contrasts
        for outcome, tested in (("looping", contrast.looping), ("accuracy", contrast.accuracy))
    )


def claims_frame(claims: Sequence[JudgedClaim]) -> pd.DataFrame:
    """A row per claim of others: what they found, what was found here, the verdict."""
    return pd.DataFrame(
        judged.claim.model_dump(mode="json")
        | (vars(judged.measure) if judged.measure else {})
        | {"verdict": str(judged.verdict)}
        for judged in claims
    )


def looping_pairs_frame(comparisons: Comparisons) -> pd.DataFrame:
    """A row per pair of conditions with the same ratio or budget: how often the second loops against the
    first.
    """
    return pd.DataFrame(
        {"first": pair.first.label, "second": pair.second.label} | _test(pair.tested)
        for pair in comparisons.looping_pairs
    )


def half_accuracy_frame(half_accuracies: Sequence[HalfAccuracy]) -> pd.DataFrame:
    """A row per press and settings, in kept tokens. ``fewest`` is 0 where accuracy does not fall to half."""
    return pd.DataFrame(
        {"press": point.curve.press, "settings": point.curve.fields}
        | {name: getattr(point, name) for name in ("fewest", "most", "low", "high", "n")}
        | {"prompt_tokens": point.curve.baseline.summary.prompt_tokens, "fewest_is_valid": not point.suspect}
        for point in half_accuracies
    )


def signals_frame(results: Sequence[ConditionResult]) -> pd.DataFrame:
    """A row per condition and signal: `analysis.runs.signal_means`."""
    return pd.DataFrame(
        {"condition": result.label, "signal": name}
        | {"mean": value.value, "low": value.low, "high": value.high, "n": value.n}
        for result in results
        for name, value in signal_means(result).items()
    )


def onset_frame(analysis: Analysis) -> pd.DataFrame:
    """`analysis.onset_alignment.align` of each signal, one under the other."""
    return _stacked("signal", analysis.aligned.items())


def alarms_frame(analysis: Analysis) -> pd.DataFrame:
    """A row per threshold: in nats, and the shares with their intervals; the interval of ``excess`` holds for
    all rows together.
    """
    rows = []
    for alarms in analysis.thresholds:
        row = {"direction": str(alarms.direction), "quantile": alarms.quantile, "threshold": alarms.threshold}
        row |= {"threshold_tokens": alarms.threshold_tokens, "loops": alarms.loops}
        row |= {"immediate": alarms.immediate, "verdict": str(alarms.verdict)}
        for name in ("caught", "matched", "by_chance", "excess", "false_alarms", "alarms_per_run"):
            if (value := getattr(alarms, name)) is not None:
                parts = {"": value.value, "_low": value.low, "_high": value.high, "_n": value.n}
                row |= {f"{name}{end}": number for end, number in parts.items()}
        rows.append(row)
    return pd.DataFrame(rows)


def discriminators_frame(analysis: Analysis) -> pd.DataFrame:
    """`analysis.discriminators.discriminate` of whole runs and of their first tokens."""
    parts = {"whole run": analysis.discriminators, f"first {FIRST}": analysis.early}
    return _stacked("tokens", parts.items())


def modes_frame(runs: pd.DataFrame) -> pd.DataFrame:
    """A row per condition and failure mode that occurs: how many of its n runs."""
    counts = runs.groupby(["condition", "mode"], sort=False).size().rename("count").reset_index()
    return counts.assign(n=counts.groupby("condition")["count"].transform("sum"))


def _stacked(column: str, parts: Iterable[tuple[str, pd.DataFrame]]) -> pd.DataFrame:
    named = [part.assign(**{column: name}) for name, part in parts if len(part)]
    if not named:
        return pd.DataFrame()
    whole = pd.concat(named, ignore_index=True)
    return whole[[column, *(name for name in whole if name != column)]]
