"""What people read: tables, figures, and logs in Markdown, from finished results and their analysis.

Number formats and the escaping of model output are in `report.format`. Knows
nothing of models and of how a run was made, and computes no statistic of its own.
"""

from kvhelpers.report.answers import Answers, ShownAnswer
from kvhelpers.report.figures.guarded_run import guarded_run
from kvhelpers.report.figures.hazard import cumulative_incidence, hazard_figures
from kvhelpers.report.format import markdown_table
from kvhelpers.report.hazard_log import (
    abstract,
    conclusions,
    control_sentence,
    save_study,
    write_hazard_log,
)
from kvhelpers.report.hazard_tables import (
    alarms_table,
    events_table,
    metrics_table,
    number_tables,
    published_table,
)

__all__ = [
    "Answers",
    "ShownAnswer",
    "abstract",
    "alarms_table",
    "conclusions",
    "control_sentence",
    "cumulative_incidence",
    "events_table",
    "guarded_run",
    "hazard_figures",
    "markdown_table",
    "metrics_table",
    "number_tables",
    "published_table",
    "save_study",
    "write_hazard_log",
]
