"""Numbers and model output as people read them: filters of the templates, for tables and notebooks too."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from kvhelpers.records import Rate
from kvhelpers.stats import Estimate

GAP = "–"
DAGGER = "†"  # beside what is not valid


def percent(share: float) -> str:
    """``45 %``."""
    return f"{share:.0%}".replace("%", " %")


def rate(value: Rate) -> str:
    """``45 % [26, 66]``: a rate with its Wilson 95 % interval."""
    return f"{percent(value.rate)} [{value.low * 100:.0f}, {value.high * 100:.0f}]"


def estimate(value: Estimate | None, digits: int = 2) -> str:
    """``0.71 [0.60, 0.83]``: a value with its 95 % interval; a dash where there is none."""
    if value is None:
        return GAP
    interval = "no interval" if value.low is None else f"{value.low:.{digits}f}, {value.high:.{digits}f}"
    return f"{value.value:.{digits}f} [{interval}]"


def share(value: Estimate | None) -> str:
    """``71 % [60, 83]``: a share with its 95 % interval; a dash where there is none."""
    if value is None:
        return GAP
    interval = "no interval" if value.low is None else f"{100 * value.low:.0f}, {100 * value.high:.0f}"
    return f"{100 * value.value:.0f} % [{interval}]".replace("-", "−")


def points_of(value: Estimate) -> str:
    """``−4 [−9, +1]``: a difference of shares in percentage points, with its 95 % interval."""
    if value.low is None:
        return f"{_point(value.value)} [no interval]"
    return _signed(value.value, value.low, value.high)


def p_value(value: float) -> str:
    """``.012``, or that it is below .001."""
    return "< .001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def _signed(*shares: float) -> str:
    return "{} [{}, {}]".format(*map(_point, shares))


def _point(share: float) -> str:
    text = f"{100 * share:+.0f}".replace("-", "−")
    return "0" if text in ("+0", "−0") else text


def sentence(text: str) -> str:
    """The lines of a template's block as one line that ends in a line break; nothing stays nothing."""
    line = re.sub(r"\s*\n\s*", " ", text.strip())
    return f"{line}\n" if line else ""


def markdown_table(table: pd.DataFrame) -> str:
    """A table as GitHub Markdown; pipes in values are escaped, and white space is a blank."""

    def line(values: Sequence) -> str:
        escaped = (" ".join(str(value).split()).replace("|", "\\|") for value in values)
        return "| " + " | ".join(escaped) + " |"

    rules = ["---"] * len(table.columns)
    return "\n".join([line(table.columns), line(rules), *map(line, table.itertuples(index=False))])


def model_output(text: str) -> str:
    """Model output as a code block that it cannot break out of. Nothing else lets model output into a log."""
    fence = "`" * max(3, 1 + max((len(ticks) for ticks in re.findall(r"`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"
