"""What people read: tables, figures, and logs in Markdown, from finished results and their analysis.

Wording is in ``templates/*.md.j2``, number formats and the escaping of model output in `report.format`. Knows
nothing of models and of how a run was made, and computes no statistic of its own.
"""

from kvhelpers.report.answers import Answers, ShownAnswer
from kvhelpers.report.chooser import RunChooser
from kvhelpers.report.figures import (
    aligned,
    cache_over_time,
    discriminator_dots,
    heat_map,
    mode_bars,
    outcomes,
    rates_by_kept,
    token_trace,
    trace,
)
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
from kvhelpers.report.log import write_log
from kvhelpers.report.sentences import (
    alarm_sentences,
    condition_sentence,
    discriminator_sentences,
    onset_sentences,
)
from kvhelpers.report.tables import (
    endings_table,
    press_table,
    results_table,
    side_by_side,
    signals_table,
)

__all__ = [
    "Answers",
    "RunChooser",
    "ShownAnswer",
    "abstract",
    "alarm_sentences",
    "alarms_table",
    "aligned",
    "cache_over_time",
    "conclusions",
    "condition_sentence",
    "control_sentence",
    "cumulative_incidence",
    "discriminator_dots",
    "discriminator_sentences",
    "endings_table",
    "events_table",
    "guarded_run",
    "hazard_figures",
    "heat_map",
    "markdown_table",
    "metrics_table",
    "mode_bars",
    "number_tables",
    "onset_sentences",
    "outcomes",
    "press_table",
    "published_table",
    "rates_by_kept",
    "results_table",
    "save_study",
    "side_by_side",
    "signals_table",
    "token_trace",
    "trace",
    "write_hazard_log",
    "write_log",
]
