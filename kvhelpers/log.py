"""The log of an experiment: tables that a run writes, among words that a person wrote."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kvhelpers.paths import REPOSITORY, log_path, write_atomic
from kvhelpers.report.format import GAP, markdown_table

Form = str | Callable[[Any], str]  # a format string for the value, or what takes the row
Columns = Mapping[str, tuple[str, Form]]


def table(
    long: pd.DataFrame, head: str, rows: Mapping[str, tuple[str, str]], columns: Columns
) -> pd.DataFrame:
    """Rows of the long frame (`frames.LONG`) as text, a dash where there is none.

    ``rows`` are the question and subject by what stands below ``head``; ``columns`` are the metric, and how
    its row is written, by heading. A row has its estimate as ``value``, None for an end that is missing, and
    so can be written as a `stats.Estimate` is.
    """
    long = long.rename(columns={"estimate": "value"}).astype(object)
    by_key = {one[1:4]: one for one in long.where(long.notna(), None).itertuples()}

    def cell(key: tuple[str, str, str], form: Form) -> str:
        if (one := by_key.get(key)) is None:
            return GAP
        return form.format(one.value) if isinstance(form, str) else form(one)

    return pd.DataFrame(
        {head: name} | {heading: cell((*row, metric), form) for heading, (metric, form) in columns.items()}
        for name, row in rows.items()
    )


def with_tables(text: str, tables: Sequence[pd.DataFrame]) -> str:
    """A log with these tables in place of those that have the same columns, in their order; others are put at
    its end. All else stays as it is.
    """
    waiting = [markdown_table(table) + "\n" for table in tables]

    def fresh(found: re.Match) -> str:
        head = found[0].split("\n")[0]
        at = next((at for at, table in enumerate(waiting) if table.split("\n")[0] == head), None)
        return found[0] if at is None else waiting.pop(at)

    text = re.sub(r"(?:^\|.*\|\n)+", fresh, text, flags=re.MULTILINE)
    return "\n".join([text, *waiting])


def write_tables(name: str, tables: Sequence[pd.DataFrame], beginning: str) -> Path:
    """Write an experiment's log with these tables: the one that is there, else the repository's, else one
    with this beginning; return its path.
    """
    path = log_path(name)
    there = next((log for log in (path, REPOSITORY / "experiments" / path.name) if log.is_file()), None)
    text = with_tables(there.read_text(encoding="utf-8") if there else beginning, tables)
    return write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
