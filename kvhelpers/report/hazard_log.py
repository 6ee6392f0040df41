"""The log of a study of predictors: Markdown, figures, tables as CSV; and the study and its model as data.

Data are gathered here; the words are in ``templates/hazard.md.j2`` and ``templates/hazard_sentences.md.j2``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from kvhelpers.experiment.grid import finished_results
from kvhelpers.experiment.results import ConditionResult
from kvhelpers.hazard import verdicts
from kvhelpers.hazard.baselines import CONDITION, PROPOSED
from kvhelpers.hazard.events import GOES_ON, UNSURE
from kvhelpers.hazard.scrutiny import Scrutiny
from kvhelpers.hazard.study import Study, read_study
from kvhelpers.paths import (
    figures_dir,
    find_results,
    log_path,
    model_path,
    relative,
    study_path,
    write_atomic,
)
from kvhelpers.report.excerpt import Excerpt, make_excerpt
from kvhelpers.report.figures import hazard as figures
from kvhelpers.report.figures.style import save
from kvhelpers.report.frames import save_frames
from kvhelpers.report.hazard_tables import (
    ablation_rows,
    alarms_table,
    elsewhere_rows,
    events_table,
    highest_rate,
    learning_rows,
    metrics_table,
    number_tables,
    published_table,
    results_table,
    right_end_rows,
    varied_table,
)
from kvhelpers.report.render import block, render


def save_study(name: str, study: Study) -> Path:
    """Write a study and its model as data under an experiment's name; return the folder."""
    study.model.save(model_path(name))
    return study.save(study_path(name)).parent


def write_stored_log(name: str, root: Path) -> Path:
    """Write the log of the study that lies below ``root``; return the log's path.

    Raises
    ------
    InputError : the file is no study, or one of its experiments has no finished condition here.
    """
    study = read_study(study_path(name, root))
    results = [
        result
        for experiment in study.data.experiments
        for result in finished_results(experiment, find_results(experiment))
    ]
    return write_hazard_log(name, study, results)


def write_hazard_log(name: str, study: Study, results: Sequence[ConditionResult]) -> Path:
    """Write a study's log, figures and tables under an experiment's name; return the log's path.

    ``results`` are conditions among which the runs shown as text are looked for.
    """
    folder = figures_dir(name)
    for key, figure in figures.hazard_figures(study).items():
        save(figure, folder, key)
    save_frames(number_tables(study), folder)
    text = hazard_log(name, study, results)
    return write_atomic(log_path(name), lambda path: path.write_text(text, encoding="utf-8"))


def hazard_log(name: str, study: Study, results: Sequence[ConditionResult]) -> str:
    """The log's Markdown; see `write_hazard_log`."""
    folder = f"../{relative(figures_dir(name))}"
    return render(
        "hazard",
        name=name,
        study=study,
        proposed=study.methods[PROPOSED],
        alarms=highest_rate(study.alarms[PROPOSED]),
        tables={
            "results": results_table(study),
            "events": events_table(study.data),
            "predictors": metrics_table(study.methods, "Predictor"),
            "horizons": metrics_table(study.by_horizon, "Horizon"),
            "right_ends": metrics_table(right_end_rows(study), "Predictor"),
            "elsewhere": metrics_table(elsewhere_rows(study.elsewhere), "Tested on"),
            "alarms": alarms_table(study.alarms),
            "ablations": metrics_table(ablation_rows(study.ablations), "Features"),
            "learning": metrics_table(learning_rows(study), "Training prompts"),
        }
        | scrutiny_tables(study.scrutiny),
        folder=folder,
        model=relative(model_path(name)),
        images={key: f"{folder}/{key}.png" for key in figures.drawn(study)},
        abstract=abstract(study),
        conclusions=conclusions(study).split("\n"),
        runs=verdicts.runs_beside_baselines(study),
        right_ends=right_ends_sentence(study),
        control=control_sentence(study),
        missed=list(zip(study.missed, missed_excerpts(study, results), strict=True)),
        goes_on=GOES_ON,
        unsure=UNSURE,
    )


def scrutiny_tables(scrutiny: Scrutiny | None) -> dict[str, pd.DataFrame]:
    """The tables of a scrutiny; none without one."""
    if scrutiny is None:
        return {}
    return {
        "published": published_table(scrutiny),
        "varied": varied_table(scrutiny),
        "onsets_oracle": metrics_table(scrutiny.onsets_oracle.methods, "Knows"),
        "right_ends_oracle": metrics_table(scrutiny.right_ends_oracle.methods, "Knows"),
    }


def abstract(study: Study) -> str:
    """What was found, the verdict first; a sentence a line, six lines at most."""
    return block(
        "hazard_sentences",
        "abstract",
        study=study,
        verdict=verdicts.foreseen(study),
        tokens=verdicts.beside_baselines(study),
        runs=verdicts.runs_beside_baselines(study),
        proposed=PROPOSED,
        by_condition=CONDITION,
    )


def conclusions(study: Study) -> str:
    """What the result hangs on, one sentence a line."""
    return block(
        "hazard_sentences",
        "conclusions",
        study=study,
        influences=verdicts.influences(study),
    )


def right_ends_sentence(study: Study) -> str:
    """Whether the end of a run, right or not, can be told."""
    return block("hazard_sentences", "right_ends", ends=study.right_ends, proposed=PROPOSED)


def control_sentence(study: Study) -> str:
    """What the predictor knows when outcomes are shuffled between runs."""
    return block("hazard_sentences", "control", finding=verdicts.control(study))


def missed_excerpts(study: Study, results: Sequence[ConditionResult]) -> list[Excerpt | None]:
    """The texts of the missed failures; None for a run that is not among the results."""
    by_run = {
        (result.condition.experiment, result.label, record.prompt_index): (result, record)
        for result in results
        for record in result.records
    }
    runs = (by_run.get((run.experiment, run.condition, run.prompt_index)) for run in study.missed)
    return [make_excerpt(*run) if run else None for run in runs]
