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
from kvhelpers.report.figures.actions import actions_figure
from kvhelpers.report.figures.guarded_run import guarded_run
from kvhelpers.report.format import markdown_table
from kvhelpers.report.guard_log import write_stored_log
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
    "actions_figure",
    "alarm_sentences",
    "aligned",
    "cache_over_time",
    "condition_sentence",
    "discriminator_dots",
    "discriminator_sentences",
    "endings_table",
    "guarded_run",
    "heat_map",
    "markdown_table",
    "mode_bars",
    "onset_sentences",
    "outcomes",
    "press_table",
    "rates_by_kept",
    "results_table",
    "side_by_side",
    "signals_table",
    "token_trace",
    "trace",
    "write_log",
    "write_stored_log",
]
