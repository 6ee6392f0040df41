"""The figure of presses that cut the cache while the answer is written."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from kvhelpers.experiment.results import ConditionResult
from kvhelpers.records import Record
from kvhelpers.report.figures.labels import pieces, shortened
from kvhelpers.report.figures.style import (
    COLOURS,
    MARKERS,
    STYLE,
    WIDTH,
    entries,
    legend_above,
    marked,
    note_daggers,
    wrapped,
)

COLUMNS, ROWS = 3, 4
DASHES = ("", (4, 1.5), (1, 1))
LINES = [COLOURS[place] for place in (2, 1, 4, 9, 5, 7)]  # those that mean no outcome elsewhere
TARGET = "target_size="  # the press's field that says how large the cache may be


def cache_over_time(results: Sequence[ConditionResult]) -> Figure | None:
    """Cached tokens at each new token, means over the runs that get so far; None if no condition compresses
    while decoding.

    A panel for each press with its own fields, and in it a line for each target size and budget: lines of
    presses with the same target size would cover each other. Of more than 12 panels, the first 12.
    """
    cutting = [result for result in results if result.cuts_while_decoding]
    if not cutting:
        return None
    panels, lines = _panels(cutting), [_line(result) for result in cutting]
    titles = list(dict.fromkeys(panels))[: COLUMNS * ROWS]
    names = sorted(set(lines), key=lines.index)
    look = {
        "palette": {name: LINES[number % len(LINES)] for number, name in enumerate(names)},
        "markers": {name: MARKERS[number % len(MARKERS)] for number, name in enumerate(names)},
        "dashes": {name: DASHES[number % len(DASHES)] for number, name in enumerate(names)},
    }
    columns = min(COLUMNS, len(titles))
    rows = -(-len(titles) // columns)
    with matplotlib.rc_context(STYLE):
        width = WIDTH if columns > 1 else 5.0
        figure = Figure(figsize=(width, 2.05 * rows + 0.6), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        shown: dict[str, Artist] = {}
        for number, (axes, title) in enumerate(zip(grid.flat, titles, strict=False)):
            members = [
                (result, line)
                for result, panel, line in zip(cutting, panels, lines, strict=True)
                if panel == title
            ]
            sns.lineplot(
                pd.concat([_sizes(result).assign(line=line) for result, line in members]),
                x="token",
                y="cached",
                hue="line",
                style="line",
                errorbar=None,
                markersize=4.5,
                markeredgewidth=0,
                linewidth=1.2,
                ax=axes,
                **look,
            )
            for place, line in enumerate(axes.lines):
                line.set_markevery((5 + 3 * place, 20))
            shown |= entries(axes)
            is_lowest = number + columns >= len(titles)
            axes.set(
                xlabel="new token" if is_lowest else "", ylabel="cached tokens", title=wrapped(title, 30)
            )
            axes.tick_params(labelbottom=is_lowest)
            axes.xaxis.label.set_visible(is_lowest)
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.3)
        for axes in grid.flat[len(titles) :]:
            axes.remove()
        legend_above(figure, {name: shown[name] for name in names if name in shown} | note_daggers(names))
    return figure


def _panels(results: Sequence[ConditionResult]) -> list[str]:
    """The panel of each condition: its press, and what its fields say beyond those of all and the target."""
    texts = []
    for result in results:
        fields = pieces(result.condition.fields)
        texts.append(", ".join(field for field in fields if not field.startswith(TARGET)))
    own = shortened(texts)[1]
    presses = [result.condition.press for result in results]
    return [f"{press} ({text})" if text else press for press, text in zip(presses, own, strict=True)]


def _line(result: ConditionResult) -> str:
    """The line of a condition in its panel: what its prefill keeps, if that is not all, and the target."""
    condition = result.condition
    first, *fields = pieces(condition.label())
    amount = [] if condition.ratio == 0 else [first.removeprefix(condition.press).strip()]
    target = [field for field in fields if field.startswith(TARGET)]
    return marked(", ".join([*amount, *target]) or "usual", not result.is_invalid)


def _sizes(result: ConditionResult) -> pd.DataFrame:
    """A row per run and new token: token, cached."""
    runs = [pd.Series(cached_tokens(record), name="cached") for record in result.records if record.cache]
    return pd.concat(runs).rename_axis("token").reset_index()


def cached_tokens(record: Record) -> np.ndarray:
    """Tokens in the cache when each new token is chosen, ``[n_tokens]``, mean over layers."""
    size, cuts = record.cache.kept_tokens, {cut.step: cut.after for cut in record.compressions}
    sizes = []
    for step in range(record.n_tokens):
        sizes.append(size)
        size = cuts.get(step + 1, size + 1)
    return np.array(sizes, dtype=float)
