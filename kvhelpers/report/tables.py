"""Tidy tables of an experiment's conditions and runs, for notebooks and logs."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence

import pandas as pd

from kvhelpers.analysis.discriminators import POOLED, WITHIN, auroc_of
from kvhelpers.analysis.half_accuracy import HalfAccuracy
from kvhelpers.analysis.runs import signal_means
from kvhelpers.experiment.results import ConditionResult, find_baseline, flags_of, is_invalid
from kvhelpers.paths import relative
from kvhelpers.presses.registry import DECODING
from kvhelpers.report.format import DAGGER, GAP, estimate, in_percent, rate
from kvhelpers.scoring.summary import RATES, endings

RATE_COLUMNS = dict(zip(RATES, ("Acc", "CFR", "Non-term", "Looping", "Wrong"), strict=True))
ENDING_COLUMNS = {
    "strict": "Strict",
    "flexible": "Flexible",
    "format_lost": "Format lost",
    "right_unended": "Right, never ended",
    "loop_ended": "Looped, ended",
    "loop_left": "Loop left",
    "never_left_thinking": "Never left thinking",
}
SIGNAL_COLUMNS = {
    "mean entropy": "Mean entropy",
    "largest entropy": "Max entropy",
    "smallest top-1 probability": "Min top-1 prob",
}
NOT_VALID = f" {DAGGER}"


def amount(result: ConditionResult) -> str:
    """The condition's ratio or budget, its press's own fields, and how its prompts differ from usual ones."""
    condition = result.condition
    return ", ".join(filter(None, (condition.amount, condition.fields)))


def kept_tokens(result: ConditionResult) -> str:
    """Mean kept tokens, or a dash."""
    kept = result.summary.kept_tokens
    return GAP if kept is None else f"{kept:.0f}"


def _flags_text(result: ConditionResult, baseline: ConditionResult | None) -> str:
    flags = flags_of(result, baseline)
    return ", ".join(f"{name} {count}/{result.summary.n}" for name, count in flags.items()) or GAP


def results_table(results: Sequence[ConditionResult]) -> pd.DataFrame:
    """One row per condition: rates with Wilson 95 % intervals, n, tokens, and validity flags with the runs
    they concern.
    """
    rows = []
    for result in results:
        summary = result.summary
        whole = "" if summary.kept_tokens is None else f" of {summary.prompt_tokens:.0f}"
        rows.append(
            {"Press": result.condition.press, "Ratio": amount(result)}
            | {title: rate(getattr(summary, name)) for name, title in RATE_COLUMNS.items()}
            | {
                "Avg tokens": f"{summary.avg_tokens:.1f}",
                "Kept tokens": kept_tokens(result) + whole,
                "n": summary.n,
                "Flags": _flags_text(result, find_baseline(results, result)),
            }
        )
    return pd.DataFrame(rows)


def screen_text(results: Sequence[ConditionResult]) -> str:
    """What a run says at its end: one row per condition, and which run to look at next."""
    rows = [
        {
            "condition": result.label,
            "accuracy": rate(result.summary.accuracy),
            "CFR": rate(result.summary.cfr),
            "no end": rate(result.summary.non_termination),
            "loops": rate(result.summary.looping),
            "kept": f"{kept_tokens(result)} of {result.summary.prompt_tokens:.0f}",
            "n": result.summary.n,
            "flags": ", ".join(flags_of(result, find_baseline(results, result))) or GAP,
        }
        for result in results
    ]
    table = pd.DataFrame(rows).to_string(index=False)
    return f"{table}\n(rates with Wilson 95 % intervals)\n\n{_look_next(results)}"


def _look_next(results: Sequence[ConditionResult]) -> str:
    """The condition that fails most, valid ones before flagged ones, and where its runs can be read."""
    compressed = [result for result in results if not result.condition.is_baseline] or list(results)

    def failing(result: ConditionResult) -> tuple[bool, int]:
        return not is_invalid(result, find_baseline(results, result)), result.summary.cfr.count

    worst = max(compressed, key=failing)
    cfr, executed = worst.summary.cfr, worst.path.with_suffix(".ipynb")
    where = f"its answers are in {relative(worst.path)}"
    if executed.exists():
        where = f"{relative(executed)} shows one of them beside the same prompt without compression"
    return f"Look next at {worst.label}, where {cfr.count} of {cfr.n} runs fail: {where}."


def endings_table(results: Sequence[ConditionResult]) -> pd.DataFrame:
    """One row per condition: `scoring.summary.endings` beside accuracy, n; where lm-evaluation-harness marked
    the answers, the means of its marks by ``metric,filter``.
    """
    table = pd.DataFrame(
        {"Press": result.condition.press, "Ratio": amount(result), "Acc": rate(result.summary.accuracy)}
        | {ENDING_COLUMNS[name]: rate(value) for name, value in endings(result.records).items()}
        | {"n": result.summary.n, "Marks": _mean_marks(result)}
        for result in results
    ).fillna(GAP)
    return table if table["Marks"].any() else table.drop(columns="Marks")


def _mean_marks(result: ConditionResult) -> str:
    means = pd.DataFrame([record.marks or {} for record in result.records]).mean()
    return "; ".join(f"{name} {mean:.2f}" for name, mean in means.items())


def signals_table(results: Sequence[ConditionResult]) -> pd.DataFrame:
    """One row per condition: means over runs of the run's signals (nats, probabilities) with 95 % bootstrap
    intervals, n, flags.
    """
    rows = []
    for result in results:
        means = signal_means(result)
        rows.append(
            {"Press": result.condition.press, "Ratio": amount(result)}
            | {title: estimate(means.get(name)) for name, title in SIGNAL_COLUMNS.items()}
            | {
                "Avg tokens": f"{result.summary.avg_tokens:.1f}",
                "n": max((value.n for value in means.values()), default=0),
                "Flags": _flags_text(result, find_baseline(results, result)),
            }
        )
    return pd.DataFrame(rows)


def grid_table(results: Sequence[ConditionResult], half_accuracies: Sequence[HalfAccuracy]) -> pd.DataFrame:
    """Accuracy and looping of many conditions, in percent: a row for each press and its settings, a column
    for each ratio or budget, and where accuracy falls to half, in kept tokens. One column for all of them,
    the most kept tokens first, where most presses have others. `NOT_VALID` marks what a flag takes the
    meaning from.
    """
    compressed = [result for result in results if not result.condition.is_baseline]
    half = {
        (point.curve.press, point.curve.fields): kept_text(point) + NOT_VALID * point.suspect
        for point in half_accuracies
    }
    amounts = list(dict.fromkeys(map(_amount, compressed)))
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for result in compressed:
        settings = (result.condition.press, result.condition.fields)
        cells = rows.setdefault(settings, dict.fromkeys(amounts, GAP))
        accuracy = in_percent(result.summary.accuracy) + NOT_VALID * is_invalid(
            result, find_baseline(results, result)
        )
        looping = in_percent(result.summary.looping) + NOT_VALID * result.is_invalid
        cells[_amount(result)] = f"{accuracy} / {looping}"
    filled = sum(cell != GAP for cells in rows.values() for cell in cells.values())
    if 2 * filled < len(rows) * len(amounts):
        kept = {_amount(result): -(result.summary.kept_tokens or 0) for result in compressed}
        for settings, cells in rows.items():
            tried = sorted((amount for amount in amounts if cells[amount] != GAP), key=kept.get)
            listed = "; ".join(f"{amount}: {cells[amount]}" for amount in tried)
            rows[settings] = {"Accuracy / looping": listed}
    table = pd.DataFrame(
        {"Press": f"{press} {fields}".rstrip()} | cells | {"Half-accuracy at": half.get((press, fields), GAP)}
        for (press, fields), cells in rows.items()
    )
    return table if half else table.drop(columns="Half-accuracy at")


def _amount(result: ConditionResult) -> str:
    condition = result.condition
    if condition.press == DECODING:
        return "while decoding"
    return condition.amount


def kept_text(point: HalfAccuracy) -> str:
    """``79 to 98 [39, 98]``, or ``< 39 [< 39, 79]`` where accuracy does not fall to half."""
    ends = "no interval" if math.isnan(point.low) else f"{_at_least(point.low, point)}, {point.high:.0f}"
    between = f"{point.fewest:.0f} to {point.most:.0f}" if point.fewest else _at_least(0, point)
    return f"{between} [{ends}]"


def _at_least(kept: float, point: HalfAccuracy) -> str:
    fewest_tried = point.curve.kept[-1]
    return f"< {fewest_tried:.0f}" if kept < fewest_tried else f"{kept:.0f}"


def press_table(table: pd.DataFrame, outcome: str = "looping") -> pd.DataFrame:
    """AUROC with interval by number of the run and press, for one outcome. A row per number, a column per
    press, whose heading says how many runs are positive.
    """
    part = table[(table["outcome"] == outcome) & (table["among"] != WITHIN)]
    features = list(dict.fromkeys(part["feature"]))
    columns = {"Number of the run": features}
    for among, rows in part.groupby("among", sort=False):
        title, by_feature = "all presses" if among == POOLED else among, rows.set_index("feature")
        heading = f"{title} ({rows['positive'].max()} of {rows['n'].max()} runs)"
        columns[heading] = [estimate(auroc_of(by_feature.loc[feature])) for feature in features]
    return pd.DataFrame(columns)


def side_by_side(texts: Mapping[str, str], width: int = 56, lines: int = 16) -> str:
    """Texts in columns of plain characters under their titles, cut after so many lines."""
    columns = []
    for title, text in texts.items():
        wrapped = [part for line in text.splitlines() for part in textwrap.wrap(line, width) or [""]]
        cut = [*wrapped[:lines], "[…]"] if len(wrapped) > lines else wrapped
        columns.append([title, "-" * width, *cut])
    rows = itertools.zip_longest(*columns, fillvalue="")
    return "\n".join("  ".join(part.ljust(width) for part in row).rstrip() for row in rows)
