"""Choose a press and an amount, and see what became of the runs.

The widgets are linked in the browser, so that a saved notebook's chooser works without a kernel. Where there
are no widgets at all, folded parts of plain HTML hold the same conditions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvhelpers.analysis.runs import instructive_run, run_tokens
from kvhelpers.errors import InputError
from kvhelpers.experiment.results import ConditionResult
from kvhelpers.records import Record
from kvhelpers.report.answers import Answers, ShownAnswer
from kvhelpers.report.excerpt import Excerpt, make_excerpt
from kvhelpers.report.render import render_html
from kvhelpers.report.sentences import condition_sentence
from kvhelpers.scoring.summary import most_interesting

if TYPE_CHECKING:
    import ipywidgets

MOST = 60  # tokens shown of a run


@dataclass(frozen=True)
class Page:
    """A condition as it is shown: its amount and fields, a sentence, and its run to look at."""

    amount: str
    result: ConditionResult
    record: Record

    @property
    def sentence(self) -> str:
        return condition_sentence(self.result)

    @property
    def excerpt(self) -> Excerpt:
        return make_excerpt(self.result, self.record)

    def html(self) -> str:
        """The page with its shaded answer."""
        tokens = run_tokens(self.result, self.record)
        answer = Answers([ShownAnswer(self.result.label, self.record, tokens)], MOST)
        return render_html("chooser_page", page=self, answer=answer._repr_html_())


class RunChooser:
    """A chooser over finished conditions, which opens at the instructive run.

    Parameters
    ----------
    results : at least one condition.
    """

    def __init__(self, results: Sequence[ConditionResult]):
        if not results:
            raise InputError("results are empty; a chooser needs at least one condition")
        self.presses: dict[str, list[Page]] = {}
        for result in results:
            condition = result.condition
            amount = condition.amount + (f" ({condition.fields})" if condition.fields else "")
            page = Page(amount, result, most_interesting(result.records))
            self.presses.setdefault(condition.press, []).append(page)
        self.first = instructive_run(results)[0]

    def widget(self) -> ipywidgets.Widget:
        """The chooser as widgets."""
        import ipywidgets

        parts, starts = [], []
        for pages in self.presses.values():
            start = next((n for n, page in enumerate(pages) if page.result is self.first), None)
            starts.append(start is not None)
            shown = [ipywidgets.HTML(page.html()) for page in pages]
            parts.append(_switch("amount", [page.amount for page in pages], shown, start or 0))
        return _switch("press", self.presses, parts, starts.index(True))

    def html(self) -> str:
        """The chooser as folded parts, without widgets or scripts."""
        return render_html("chooser", presses=self.presses, first=self.first)

    def __repr__(self) -> str:
        return "\n".join(page.sentence for pages in self.presses.values() for page in pages)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """What a notebook shows: the widgets; else the HTML; else the text."""
        return self.widget()._repr_mimebundle_() | {"text/html": self.html(), "text/plain": repr(self)}


def _switch(
    label: str, names: Iterable[str], parts: Sequence[ipywidgets.Widget], start: int
) -> ipywidgets.Widget:
    """A menu above the one part that it names."""
    import ipywidgets

    menu = ipywidgets.Dropdown(options=list(names), index=start, description=label)
    stack = ipywidgets.Stack(list(parts), selected_index=start)
    ipywidgets.jslink((menu, "index"), (stack, "selected_index"))
    return ipywidgets.VBox([menu, stack])
