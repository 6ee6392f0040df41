"""Figure of a study of inner signals."""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from kvhelpers.hazard.inner_study import OUTSIDE, InnerStudy
from kvhelpers.report.figures.style import COLOURS, MARKERS, STYLE, WIDTH, entries, spread_of


def gains(study: InnerStudy) -> Figure:
    """What each family adds to the outside's AUROC within condition and token, with 95 % intervals: a panel
    per question, a marker per kind of predictor.
    """
    questions = [asked for asked in study.asked if asked.has_pairs]
    with matplotlib.rc_context(STYLE):
        columns = min(2, max(1, len(questions)))
        rows = max(1, -(-len(questions) // columns))
        figure = Figure(figsize=(WIDTH, 2.8 * rows + 0.4), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes, asked in zip(grid.flat, questions, strict=False):
            axes.axvline(0, color="0.6", linewidth=0.8)
            for number, (kind, added) in enumerate(asked.added.items()):
                shown = [one for one in added if one.family != OUTSIDE and one.gain is not None]
                families = [one.family for one in added if one.family != OUTSIDE]
                places = np.array([families.index(one.family) for one in shown]) + 0.3 * (number - 0.5)
                value = np.array([one.gain.value for one in shown])
                axes.errorbar(
                    value,
                    places,
                    xerr=spread_of([one.gain for one in shown]),
                    fmt=MARKERS[number],
                    color=COLOURS[number],
                    markersize=4,
                    linewidth=1,
                    label=kind,
                )
            axes.set_yticks(range(len(families)), families)
            question = "not right at the end" if asked.horizon is None else f"onset within {asked.horizon}"
            axes.set_title(f"{asked.model}: {question}")
        grid[0, 0].invert_yaxis()
        for axes in grid.flat[max(0, len(questions) - columns) : len(questions)]:
            axes.set_xlabel("AUROC gained within condition and token")
            axes.tick_params(labelbottom=True)
        grid[0, 0].legend()
        figure.legend(
            list((shown := entries(grid[0, 0])).values()), list(shown), loc="outside upper center", ncols=2
        )
        for axes in grid.flat[len(questions) :]:
            axes.remove()
    return figure
