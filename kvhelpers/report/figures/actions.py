"""Figures of what an action can do, as matplotlib objects; `style.save` writes them."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure

from kvhelpers.guard.acted_runs import Group
from kvhelpers.guard.actions_study import ActionName, ActionsStudy, Outcome, outcomes
from kvhelpers.report.figures.style import COLOURS, STYLE, WIDTH, legend_above, spread_of

TITLES = {
    Group.FAILING: "runs that fail",
    Group.WRONG: "runs that end wrong",
    Group.RIGHT: "runs that end right",
}
LOOKS = {
    ActionName.RESTORE: ("full cache", COLOURS[0], "o"),
    ActionName.RELAX: ("milder ratio", COLOURS[2], "s"),
    ActionName.AGAIN: ("same press anew", "0.5", "D"),
}


def actions_figure(study: ActionsStudy) -> Figure:
    """The share that ends right by where it was acted on, of how many runs, a row a source, a column a
    group, a colour an action; 95 % intervals over prompts.
    """
    made = outcomes(study)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.4 * len(study.sources) + 0.4), layout="constrained")
        grid = figure.subplots(len(study.sources), len(TITLES), squeeze=False, sharey=True)
        shown = {}
        for row, source in zip(grid, study.sources, strict=True):
            for axes, group in zip(row, TITLES, strict=True):
                part = [one for one in made if (one.experiment, one.group) == (source.experiment, group)]
                shown |= _panel(axes, part)
                axes.set_title(f"{source.model},\n{TITLES[group]}")
            row[0].set_ylabel("share that ends right")
        legend_above(figure, shown)
    return figure


def _panel(axes, outcomes: Sequence[Outcome]) -> dict:
    places, shown = list(dict.fromkeys(one.place for one in outcomes)), {}
    for shift, (action, (label, colour, marker)) in enumerate(LOOKS.items()):
        part = [one for one in outcomes if one.action == action]
        x = [places.index(one.place) + 0.18 * (shift - 1) for one in part]
        y = [one.right.value for one in part]
        spread = spread_of([one.right for one in part])
        shown[label] = axes.errorbar(
            x, y, yerr=spread, color=colour, marker=marker, linestyle="none", markersize=4
        )
    n = {one.place: one.right.n for one in outcomes}
    labels = [f"{place} ({n[place]})" for place in places]
    axes.set_xticks(range(len(places)), labels, rotation=30, ha="right")
    axes.set_ylim(-0.04, 1.04)
    return shown
