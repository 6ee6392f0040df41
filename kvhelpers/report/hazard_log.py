"""The log of a study of predictors: its tables, figures and model, and the study itself as data.

Data are gathered here; the words are in ``templates/hazard.md.j2`` and ``templates/hazard_sentences.md.j2``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from kvhelpers.experiment.results import ConditionResult
from kvhelpers.hazard import verdicts
from kvhelpers.hazard.baselines import PROPOSED
from kvhelpers.hazard.events import GOES_ON, UNSURE, Event
from kvhelpers.hazard.run_alarms import RunAlarms
from kvhelpers.hazard.study import COEFFICIENT_DRAWS, Runs, Study
from kvhelpers.paths import figures_dir, log_path, relative, results_dir, write_atomic
from kvhelpers.report.excerpt import Excerpt, make_excerpt
from kvhelpers.report.figures import hazard as figures
from kvhelpers.report.figures.style import save
from kvhelpers.report.format import GAP, estimate, percent, share
from kvhelpers.report.render import block, render
from kvhelpers.stats import TokenMetrics


def metrics_table(metrics: Mapping[object, TokenMetrics], title: str) -> pd.DataFrame:
    """One row per predictor or test, named in the column ``title``: token-level metrics with 95 % intervals,
    base rate, and numbers of tokens.
    """
    rows = []
    for name, value in metrics.items():
        rows.append(
            {
                title: name,
                "AUROC": estimate(value.auroc),
                "AUROC, same token": estimate(value.auroc_same_token),
                "AUPRC": estimate(value.auprc, 3),
                "Base rate": GAP if value.base_rate is None else f"{value.base_rate:.3f}",
                "Brier": estimate(value.brier, 4),
                "Tokens": value.tokens,
                "of them positive": value.positive,
            }
        )
    return pd.DataFrame(rows)


def alarms_table(alarms: Mapping[str, Sequence[RunAlarms]]) -> pd.DataFrame:
    """One row per predictor and wanted rate of false alarms: failures caught before their onset, and how
    early.
    """
    rows = []
    for name, by_rate in alarms.items():
        for value in by_rate:
            lead = GAP
            if value.lead:
                lead = "{:.0f} ({:.0f}, {:.0f})".format(*np.percentile(value.lead, [50, 25, 75]))
            rows.append(
                {
                    "Predictor": name,
                    "False alarms wanted": percent(value.wanted),
                    "False alarms": share(value.false_alarms),
                    "Failures caught": share(value.caught),
                    "Lead, tokens: median (quartiles)": lead,
                    "n failures": GAP if value.caught is None else value.caught.n,
                }
            )
    return pd.DataFrame(rows)


def events_table(data: Runs) -> pd.DataFrame:
    """Runs by task and press: how they ended for a predictor."""
    return pd.DataFrame(
        {"Task": counts.task, "Press": counts.press, "Runs": counts.runs}
        | {str(event): counts.events[event] for event in Event}
        | {"no token at risk": counts.immediate}
        for counts in data.events
    )


def result_sentences(study: Study) -> str:
    """The targets, the baselines, and, if a target is missed, what it hangs on; one sentence a line."""
    return block(
        "hazard_sentences",
        "results",
        horizon=study.settings.horizon,
        targets=verdicts.targets(study),
        tokens=verdicts.beside_baselines(study),
        runs=verdicts.runs_beside_baselines(study),
        immediate=study.alarms[PROPOSED][0].immediate,
        failed=study.data.failed,
        shortfall=verdicts.shortfall(study),
    )


def control_sentence(study: Study) -> str:
    """What the predictor knows when outcomes are shuffled between runs."""
    return block("hazard_sentences", "control", finding=verdicts.control(study))


def model_path(name: str) -> Path:
    """Where a study's model lies."""
    return results_dir(name) / "model.json"


def study_path(name: str) -> Path:
    """Where a study lies as data."""
    return results_dir(name) / "study.json"


def write_hazard_log(name: str, study: Study, results: Sequence[ConditionResult], command: str) -> Path:
    """Write a study, its model, figures and log under an experiment's name; return the log's path."""
    study.model.save(model_path(name))
    study.save(study_path(name))
    for key, figure in figures.hazard_figures(study).items():
        save(figure, figures_dir(name), key)
    text = hazard_log(name, study, results, command)
    return write_atomic(log_path(name), lambda temporary: temporary.write_text(text))


def hazard_log(name: str, study: Study, results: Sequence[ConditionResult], command: str) -> str:
    """The log's Markdown. ``results`` are the conditions that hold the runs shown as text."""
    folder = relative(figures_dir(name))
    learning = {percent(part): metrics for part, metrics in study.learning.items()}
    tables = {
        "events": events_table(study.data),
        "methods": metrics_table(study.methods, "Predictor"),
        "by_horizon": metrics_table(study.by_horizon, "Horizon"),
        "elsewhere": metrics_table(study.elsewhere, "Tested on"),
        "alarms": alarms_table(study.alarms),
        "ablations": metrics_table(study.ablations, "Features"),
        "learning": metrics_table(learning | {"100 %": study.methods[PROPOSED]}, "Training prompts"),
    }
    return render(
        "hazard",
        name=name,
        study=study,
        tables=tables,
        command=command,
        model=relative(model_path(name)),
        images={key: f"../{folder}/{key}.png" for key in figures.DRAWN},
        results=result_sentences(study).split("\n"),
        control=control_sentence(study),
        missed=list(zip(study.missed, missed_excerpts(study, results), strict=True)),
        proposed=PROPOSED,
        goes_on=GOES_ON,
        unsure=UNSURE,
        coefficient_draws=COEFFICIENT_DRAWS,
    )


def missed_excerpts(study: Study, results: Sequence[ConditionResult]) -> list[Excerpt]:
    """The texts of the missed failures."""
    by_name = {(result.condition.experiment, result.label): result for result in results}
    excerpts = []
    for failure in study.missed:
        result = by_name[failure.experiment, failure.condition]
        record = next(r for r in result.records if r.prompt_index == failure.prompt_index)
        excerpts.append(make_excerpt(result, record))
    return excerpts
