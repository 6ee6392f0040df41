"""Markdown and HTML from templates. Wording lives in ``templates/*.md.j2`` and nowhere else."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from kvhelpers.report import format as format_
from kvhelpers.scoring.flags import FLAGS
from kvhelpers.tasks.harness import PREFIX as HARNESS

FILTERS = (
    "percent",
    "rate",
    "rate_of",
    "estimate",
    "share",
    "points",
    "points_of",
    "p_value",
    "claim_measure",
    "sentence",
    "markdown_table",
    "model_output",
)


def _is_html(template: str | None) -> bool:
    return template is not None and template.endswith(".html.j2")


@cache
def environment() -> Environment:
    """The templates and their filters, which are functions of `report.format`. A name that is missing is an
    error.
    """
    made = Environment(
        loader=PackageLoader("kvhelpers.report", "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=_is_html,  # in Markdown, model output goes through `model_output`
    )
    made.filters |= {name: getattr(format_, name) for name in FILTERS}
    made.globals |= {"FLAGS": FLAGS, "HARNESS": HARNESS}
    return made


def render(template: str, **values: Any) -> str:
    """Fill in ``templates/<template>.md.j2``."""
    return environment().get_template(f"{template}.md.j2").render(**values)


def render_html(template: str, **values: Any) -> str:
    """Fill in ``templates/<template>.html.j2``, in which every value is escaped."""
    return environment().get_template(f"{template}.html.j2").render(**values)


def block(template: str, name: str, **values: Any) -> str:
    """Fill in the macro ``name`` of a template: one sentence or table, for a notebook."""
    return str(getattr(environment().get_template(f"{template}.md.j2").module, name)(**values)).strip()
