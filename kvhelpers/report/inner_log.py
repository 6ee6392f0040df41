"""The log of a study of inner signals: Markdown, a figure and a table as CSV. The words are in
``templates/inner.md.j2``.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from kvhelpers.hazard.baselines import PROPOSED
from kvhelpers.hazard.inner import COMPONENTS, EVERY
from kvhelpers.hazard.inner_study import ALL, ORACLE, OUTSIDE, Asked, InnerStudy, gaining, read_inner_study
from kvhelpers.paths import figures_dir, inner_study_path, log_path, relative, write_atomic
from kvhelpers.records import LAST_QUERIES
from kvhelpers.report.figures.inner import gains
from kvhelpers.report.figures.style import save
from kvhelpers.report.format import estimate
from kvhelpers.report.frames import save_frames
from kvhelpers.report.hazard_tables import number_of, numbers_table
from kvhelpers.report.render import render
from kvhelpers.stats import Estimate


def write_inner_log(name: str, root: Path) -> Path:
    """Write the log, figure and table of the study that lies below ``root``; return the log's path.

    Raises
    ------
    InputError : the file is no study.
    """
    study, folder = read_inner_study(inner_study_path(name, root)), figures_dir(name)
    save(gains(study), folder, "gains")
    save_frames({"families": families_frame(study)}, folder)
    text = inner_log(name, study)
    return write_atomic(log_path(name), lambda path: path.write_text(text, encoding="utf-8"))


def inner_log(name: str, study: InnerStudy) -> str:
    """The log's Markdown; see `write_inner_log`."""
    told = [asked for asked in study.asked if asked.has_pairs]
    return render(
        "inner",
        name=name,
        folder=f"../{relative(figures_dir(name))}",
        study=study,
        proposed=PROPOSED,
        asked=[(asked, asked_table(asked), gaining(asked)) for asked in told],
        nothing=[asked for asked in study.asked if asked not in told],
        adding=sorted({name for asked in told if asked.horizon is not None for name in gaining(asked).above}),
        outside=OUTSIDE,
        oracle=ORACLE,
        all=ALL,
        every=EVERY,
        components=COMPONENTS,
        last_queries=LAST_QUERIES,
    )


def asked_table(asked: Asked) -> pd.DataFrame:
    """One row per family: AUROC and gain by kind of predictor, and whole runs."""
    rows = []
    for index, proposed in enumerate(asked.added[PROPOSED]):
        row = {"Features": proposed.family, "Number": proposed.features}
        for kind, added in asked.added.items():
            row |= {kind: estimate(added[index].within), f"gain ({kind})": _gain(added[index].gain)}
        row["whole runs"] = estimate(proposed.runs)
        if asked.press_unseen:
            unseen = asked.press_unseen[index]
            row |= {"press not seen": estimate(unseen.within), "gain (press not seen)": _gain(unseen.gain)}
        rows.append(row)
    return pd.DataFrame(rows)


def families_frame(study: InnerStudy) -> pd.DataFrame:
    """All numbers, one a row."""
    rows = []
    for asked in study.asked:
        sides = {kind: (kind, added) for kind, added in asked.added.items()}
        for kind, added in (*sides.values(), (f"{PROPOSED}, press not seen", asked.press_unseen)):
            for one in added:
                of = {
                    "experiment": asked.experiment,
                    "question": "not right" if asked.horizon is None else f"onset within {asked.horizon}",
                    "predictor": kind,
                    "features": one.family,
                }
                for metric in ("within", "gain", "runs"):
                    rows.append(of | {"metric": f"auroc_{metric}"} | number_of(getattr(one, metric)))
    return numbers_table(rows)


def _gain(value: Estimate | None) -> str:
    return estimate(value).replace("-", "−")
