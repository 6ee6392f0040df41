"""The log of what an action can do: Markdown, figures, tables as CSV.

Data are gathered here; the words are in ``templates/actions.md.j2``.
"""

from __future__ import annotations

from pathlib import Path

from kvhelpers.guard.acted_runs import START, Group
from kvhelpers.guard.actions_study import (
    ROWS,
    ActionName,
    ActionsStudy,
    contrasts,
    outcomes,
)
from kvhelpers.paths import figures_dir, log_path, relative, write_atomic
from kvhelpers.report.actions_tables import (
    action_tables,
    conditions_table,
    contrasts_table,
    outcomes_table,
    with_every_place,
)
from kvhelpers.report.figures.actions import actions_figure
from kvhelpers.report.figures.style import save
from kvhelpers.report.frames import save_frames
from kvhelpers.report.render import render


def write_actions_log(study: ActionsStudy) -> Path:
    """Write a study's log, figures and tables under its name; return the log's path."""
    name, folder = study.definition.name, figures_dir(study.definition.name)
    save(actions_figure(study), folder, "actions")
    save_frames(action_tables(study), folder)
    text = actions_log(study)
    return write_atomic(log_path(name), lambda path: path.write_text(text, encoding="utf-8"))


def actions_log(study: ActionsStudy) -> str:
    """The log's Markdown; see `write_actions_log`."""
    folder = f"../{relative(figures_dir(study.definition.name))}"
    made = contrasts(study)
    return render(
        "actions",
        study=study,
        folder=folder,
        groups=list(Group),
        actions=list(ActionName),
        start=START,
        answers=[answer(study, source.experiment, made) for source in study.sources],
        outcomes={
            (source.experiment, group): outcomes_table(study, source.experiment, group)
            for source in study.sources
            for group in Group
        },
        rows={
            source.experiment: outcomes_table(study, source.experiment, Group.FAILING, ROWS)
            for source in study.sources
        },
        conditions={
            source.experiment: conditions_table(study, source.experiment) for source in study.sources
        },
        contrasts={source.experiment: contrasts_table(made, source.experiment) for source in study.sources},
        new=sum(not run.known for run in study.runs),
        errored=sum(run.error is not None for run in study.runs),
        images={"actions": f"{folder}/actions.png"},
    )


def answer(study: ActionsStudy, experiment: str, made: list) -> dict:
    """What the log's first sentences say of a source: its model, and the contrasts and outcomes that they
    rest on.
    """
    source = next(source for source in study.sources if source.experiment == experiment)
    of_source = [one for one in made if one.experiment == experiment]
    by_key = {
        (one.group, one.place, one.action): one for one in outcomes(study) if one.experiment == experiment
    }

    def contrast(group: Group, first: tuple, second: tuple):
        return next(
            (one for one in of_source if (one.group, one.first, one.second) == (group, first, second)), None
        )

    restored, again = ("onset", ActionName.RESTORE), ("onset", ActionName.AGAIN)
    restored_everywhere = tuple(
        run for run in with_every_place(study, experiment) if run.action == ActionName.RESTORE
    )
    matched, matched_anew = ("matched", ActionName.RESTORE), ("matched", ActionName.AGAIN)
    return {
        "source": source,
        "at_start": by_key.get((Group.FAILING, START, ActionName.RESTORE)),
        "at_onset": by_key.get((Group.FAILING, *restored)),
        "anew": by_key.get((Group.FAILING, *again)),
        "gain": contrast(Group.FAILING, again, restored),
        "lost": contrast(Group.FAILING, (START, ActionName.RESTORE), restored),
        "earlier": [
            (by_key[Group.FAILING, place, ActionName.RESTORE], above_onset)
            for group, place, action in by_key
            if group == Group.FAILING
            and action == ActionName.RESTORE
            and (above_onset := contrast(Group.FAILING, restored, (place, ActionName.RESTORE))) is not None
        ],
        "every": outcomes(study.model_copy(update={"runs": restored_everywhere})),
        "rows": by_key.get((Group.FAILING, "onset", ActionName.WANTED_ROWS)),
        "row_contrasts": [one for one in of_source if one.second == ("onset", ActionName.WANTED_ROWS)],
        "wrong": [
            (
                by_key[Group.WRONG, place, ActionName.RESTORE],
                by_key[Group.WRONG, place, ActionName.AGAIN],
                contrast(Group.WRONG, (place, ActionName.AGAIN), (place, ActionName.RESTORE)),
            )
            for group, place, action in by_key
            if group == Group.WRONG and action == ActionName.RESTORE and place != START
        ],
        "right": by_key.get((Group.RIGHT, *matched)),
        "right_anew": by_key.get((Group.RIGHT, *matched_anew)),
        "right_gain": contrast(Group.RIGHT, matched_anew, matched),
    }
