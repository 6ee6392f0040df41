"""What people read: answers side by side, and how numbers and model output are written.

Number formats and the escaping of model output are in `report.format`. Knows nothing of models and of how a
run was made, and computes no statistic of its own.
"""

from kvhelpers.report.answers import Answers, ShownAnswer
from kvhelpers.report.figures.guarded_run import guarded_run
from kvhelpers.report.format import markdown_table

__all__ = ["Answers", "ShownAnswer", "guarded_run", "markdown_table"]
