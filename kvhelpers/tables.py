"""Tidy tables of an experiment's cells, for notebooks and logs."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from kvhelpers.bootstrap import estimate, mean
from kvhelpers.config import kwargs_text
from kvhelpers.presses import NONE
from kvhelpers.results import CellResult
from kvhelpers.summary import RATES
from kvhelpers.validity import INVALIDATING, baseline_is_weak

RATE_COLUMNS = dict(zip(RATES, ("Acc", "CFR", "Non-term", "Looping", "Wrong"), strict=True))


def percent(share: float) -> str:
    """``45 %``."""
    return f"{share:.0%}".replace("%", " %")


def rate_text(rate: dict[str, Any]) -> str:
    """``45 % [26, 66]``: a rate with its Wilson 95 % interval."""
    return f"{percent(rate['rate'])} [{rate['low'] * 100:.0f}, {rate['high'] * 100:.0f}]"


def cell_flags(cell: CellResult, baseline: CellResult | None) -> dict[str, int]:
    """The cell's flags with the number of runs they concern; a weak baseline concerns all runs."""
    flags = dict(cell.summary["flags"])
    if baseline is not None and baseline_is_weak(baseline.summary["accuracy"]["count"]):
        flags["weak_baseline"] = cell.summary["n"]
    return flags


def find_baseline(cells: Sequence[CellResult]) -> CellResult | None:
    """The uncompressed cell, if there is one."""
    return next((cell for cell in cells if cell.config["press"] == NONE), None)


def is_invalid(cell: CellResult, baseline: CellResult | None) -> bool:
    """Whether a flag takes away the meaning of at least half of the cell's runs."""
    return any(name in INVALIDATING and 2 * count >= cell.summary["n"] for name, count in cell_flags(cell, baseline).items())


def _flags_text(cell: CellResult, baseline: CellResult | None) -> str:
    return ", ".join(f"{name} {count}/{cell.summary['n']}" for name, count in cell_flags(cell, baseline).items()) or "–"


def amount(cell: CellResult) -> str:
    """The cell's ratio or budget, and its press's own fields."""
    config = cell.config
    amount = f"{config['ratio']:g}" if config["budget"] is None else f"budget {config['budget']}"
    return ", ".join(filter(None, (amount, kwargs_text(config["press_kwargs"]))))


def results_table(cells: Sequence[CellResult]) -> pd.DataFrame:
    """One row per cell: rates with Wilson 95 % intervals, n, tokens, and validity flags with the runs they concern."""
    baseline = find_baseline(cells)
    rows = []
    for cell in cells:
        summary = cell.summary
        kept = summary["kept_tokens"]
        rows.append(
            {"Press": cell.config["press"], "Ratio": amount(cell)}
            | {title: rate_text(summary[name]) for name, title in RATE_COLUMNS.items()}
            | {
                "Avg tokens": f"{summary['avg_tokens']:.1f}",
                "Kept tokens": "–" if kept is None else f"{kept:.0f} of {summary['prompt_tokens']:.0f}",
                "n": summary["n"],
                "Flags": _flags_text(cell, baseline),
            }
        )
    return pd.DataFrame(rows)


def signals_table(cells: Sequence[CellResult]) -> pd.DataFrame:
    """One row per cell: means over runs of the run's signals (nats, probabilities) with 95 % bootstrap intervals, n, flags."""
    baseline = find_baseline(cells)
    rows = []
    for cell in cells:
        runs = cell.signals(["prompt_index", "entropy", "top1_prob"]).groupby("prompt_index")
        values = {
            "Mean entropy": runs["entropy"].mean(),
            "Max entropy": runs["entropy"].max(),
            "Min top-1 prob": runs["top1_prob"].min(),
        }
        found = {title: estimate(mean(of_run), list(of_run.index)) for title, of_run in values.items()}
        rows.append(
            {"Press": cell.config["press"], "Ratio": amount(cell)}
            | {title: "–" if one is None else one.text() for title, one in found.items()}
            | {"Avg tokens": f"{cell.summary['avg_tokens']:.1f}", "n": len(runs), "Flags": _flags_text(cell, baseline)}
        )
    return pd.DataFrame(rows)


def markdown_table(table: pd.DataFrame) -> str:
    """A table as GitHub Markdown; pipes in cells are escaped, and white space is a blank."""

    def line(values):
        return "| " + " | ".join(" ".join(str(value).split()).replace("|", "\\|") for value in values) + " |"

    return "\n".join([line(table.columns), line("---" for _ in table.columns), *map(line, table.itertuples(index=False))])


def side_by_side(texts: Mapping[str, str], width: int = 56, lines: int = 16) -> str:
    """Texts in columns of plain characters under their titles, cut after so many lines."""
    columns = []
    for title, text in texts.items():
        wrapped = [part for line in text.splitlines() for part in textwrap.wrap(line, width) or [""]]
        cut = [*wrapped[:lines], "[…]"] if len(wrapped) > lines else wrapped
        columns.append([title, "-" * width, *cut])
    rows = itertools.zip_longest(*columns, fillvalue="")
    return "\n".join("  ".join(cell.ljust(width) for cell in row).rstrip() for row in rows)
