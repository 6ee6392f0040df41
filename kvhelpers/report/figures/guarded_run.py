"""One guarded run: its risk, the alarm, the action and the memory held, as a matplotlib figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure

from kvhelpers.report.figures.style import COLOURS, STYLE, WIDTH, legend_above

LOOKS = (("press alone", COLOURS[3], "-"), ("guarded", COLOURS[0], "-"), ("full cache", "0.5", "--"))


def guarded_run(
    risk: Mapping[str, Sequence[float]],
    entries: Mapping[str, Sequence[float]],
    entry_bytes: float,
    alarm: int | None,
) -> Figure:
    """Risk and memory of a run by the tokens that it generated, those taken back included.

    ``risk`` and ``entries`` are values ``[T]`` by the names of `LOOKS`; ``alarm`` is the token at which the
    guard acted.
    """
    looks = {name: (colour, style) for name, colour, style in LOOKS}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        shown = {}
        for axes, series, scale in ((above, risk, 1.0), (below, entries, entry_bytes / 2**20)):
            for name, values in series.items():
                colour, style = looks[name]
                (shown[name],) = axes.plot(
                    range(len(values)), [scale * value for value in values], style, color=colour
                )
            if alarm is not None:
                shown["action"] = axes.axvline(alarm, color="0.2", linestyle=":")
        above.set_ylabel("risk of failure")
        above.set_ylim(0, 1)
        below.set_ylabel("cache (MiB)")
        below.set_ylim(0, None)
        below.set_xlabel("tokens generated")
        legend_above(figure, shown)
    return figure
