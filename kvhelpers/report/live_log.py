"""The log of a live guard: Markdown, figures, tables as CSV.

Data are gathered here; the words are in ``templates/live.md.j2``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kvhelpers.guard import contract
from kvhelpers.guard.choice import choices, gain_where_it_chooses
from kvhelpers.guard.contract import Verdict
from kvhelpers.guard.definition import PERMUTED, POLICIES, UNTIMED
from kvhelpers.guard.frontier import (
    FULL,
    PRESS,
    PolicyResult,
    below_curve,
    curves_of,
    gain_over,
    lost_runs,
    results,
    without_milder_ratio,
)
from kvhelpers.guard.live_study import LiveSource, LiveStudy
from kvhelpers.paths import figures_dir, log_path, relative, write_atomic
from kvhelpers.report.figures.frontier import frontier_figure
from kvhelpers.report.figures.style import save
from kvhelpers.report.frames import save_frames
from kvhelpers.report.live_tables import (
    choices_table,
    contract_table,
    costs_table,
    live_tables,
    policies_table,
)
from kvhelpers.report.render import render

HAZARD = "hazard_roll_back"
BESIDE = (FULL, PRESS, *UNTIMED)  # controls, and what nobody could follow


def write_live_log(study: LiveStudy) -> Path:
    """Write a study's log, figures and tables under its name; return the log's path."""
    name, made = study.definition.name, results(study)
    save(frontier_figure(study), figures_dir(name), "frontier")
    save_frames(live_tables(study, made), figures_dir(name))
    text = live_log(study, made)
    return write_atomic(log_path(name), lambda path: path.write_text(text, encoding="utf-8"))


def live_log(study: LiveStudy, made: Sequence[PolicyResult]) -> str:
    """The log's Markdown; see `write_live_log`."""
    folder = f"../{relative(figures_dir(study.definition.name))}"
    by_source = {
        source.experiment: [one for one in made if one.experiment == source.experiment]
        for source in study.sources
    }
    return render(
        "live",
        study=study,
        folder=folder,
        limits=contract,
        policies=POLICIES,
        answers=[answer(study, source, by_source[source.experiment]) for source in study.sources],
        tables={name: policies_table(some) for name, some in by_source.items()},
        contracts={name: contract_table(some) for name, some in by_source.items()},
        costs={name: costs_table(some) for name, some in by_source.items()},
        live={name: sum(getattr(check, name) for check in study.checks) for name in ("n", "same", "acted")},
        errored=sum(run.error is not None for run in study.runs),
        images={"frontier": f"{folder}/frontier.png"},
    )


def answer(study: LiveStudy, source: LiveSource, made: Sequence[PolicyResult]) -> dict[str, Any]:
    """What the log's first sentences say of a source, and the results that they rest on."""
    by_name = {one.policy: one for one in made}
    judged = [one for one in made if one.policy not in BESIDE]
    dealt = {HAZARD, PERMUTED} <= set(by_name)
    chosen = choices(study, source.experiment, HAZARD) if dealt else []
    return {
        "source": source,
        "kept": [one.policy for one in judged if one.contract.whole == Verdict.PASS],
        "unmeasured": [one.policy for one in judged if one.contract.whole == Verdict.NOT_MEASURED],
        "above": [one for one in judged if one.above_curve.low is not None and one.above_curve.low > 0],
        "below": [one for one in judged if one.above_curve.high is not None and one.above_curve.high < 0],
        "judged": judged,
        "curves": curves_of(study, source.experiment),
        "below_curve": below_curve(study, source.experiment),
        "no_milder": without_milder_ratio(study, source.experiment),
        "full": by_name[FULL],
        "lost": lost_runs(study, source.experiment),
        "router": by_name.get("router"),
        "hazard": by_name.get(HAZARD),
        "permuted": by_name.get(PERMUTED),
        "over_permuted": gain_over(study, source.experiment, HAZARD, PERMUTED) if dealt else None,
        "choices": choices_table(chosen),
        "no_choice": [one.condition for one in chosen if not one.is_free],
        "over_where_it_chooses": gain_where_it_chooses(study, source.experiment, HAZARD, chosen),
        "oracle": by_name.get("oracle"),
        "onset": by_name.get("oracle_alarm"),
    }
