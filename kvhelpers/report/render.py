"""Markdown from templates. Wording lives in ``templates/*.md.j2`` and nowhere else."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from kvhelpers.report import format as format_
from kvhelpers.scoring.flags import FLAGS

FILTERS = (
    "percent",
    "estimate",
    "share",
    "points_of",
    "sentence",
    "markdown_table",
    "model_output",
)


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
        autoescape=False,  # model output goes through `model_output`
    )
    made.filters |= {name: getattr(format_, name) for name in FILTERS}
    made.globals |= {"FLAGS": FLAGS}
    return made


def render(template: str, **values: Any) -> str:
    """Fill in ``templates/<template>.md.j2``."""
    return environment().get_template(f"{template}.md.j2").render(**values)


def block(template: str, name: str, **values: Any) -> str:
    """Fill in the macro ``name`` of a template: one sentence or table, for a notebook."""
    return str(getattr(environment().get_template(f"{template}.md.j2").module, name)(**values)).strip()
