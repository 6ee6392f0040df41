"""Is this setting safe? Reads two sets of answers or generates both, and writes a page, JSON and Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kvhelpers.compare import AnswerSet, Check, as_json, as_markdown, check, condition_set, read_set
from kvhelpers.compare.page import page
from kvhelpers.compare.verdict import margin_share
from kvhelpers.errors import InputError, shown
from kvhelpers.paths import figures_dir, relative, user_path, write_atomic
from kvhelpers.presses.registry import NONE

NAME = "check"
PROMPTS = 100


def run_check(
    sets: Sequence[str], parameters: Mapping[str, Any], margin: float, out: str | None = None
) -> tuple[Check, Path]:
    """Check two ``sets`` of answers, or, without any, the setting of ``parameters`` (of
    `experiment.condition.Condition`) against no compression; ``margin`` in points. Returns the check and the
    folder of its files: ``out``, or that of the experiment's figures.

    Raises
    ------
    InputError : both or neither are given, or one of them is not allowed; nothing is written then.
    """
    if len(sets) != (0 if parameters else 2):
        raise InputError(
            f"check {shown(list(sets))} is not allowed: give BASE and OTHER, or, without them, --model, "
            "--press, --ratio and --task, and both are generated"
        )
    share = margin_share(margin)
    folder = figures_dir(parameters.get("experiment", NAME)) if out is None else user_path("out", out)
    base, other = generated(parameters) if parameters else map(read_set, sets)
    done = check(base, other, share)
    files = {
        "check.html": page(done),
        "check.json": json.dumps(as_json(done), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "check.md": as_markdown(done),
    }
    for name, text in files.items():
        write_atomic(folder / name, lambda path, text=text: path.write_text(text, encoding="utf-8"))
    return done, folder


def generated(parameters: Mapping[str, Any]) -> tuple[AnswerSet, AnswerSet]:
    """The answers with the cache in full, and in the setting; what is finished is not run again."""
    from kvhelpers.experiment.condition import make_condition
    from kvhelpers.experiment.results import check_same_experiment

    asked = make_condition({"experiment": NAME, "n_prompts": PROMPTS, "press": NONE} | dict(parameters))
    if asked.is_baseline:
        raise InputError(
            f"press {shown(asked.press)} is not allowed without a cache_type: name the press to be checked"
        )
    conditions = [asked.uncompressed(), asked]
    from kvhelpers.experiment.run import check_before_loading, run_condition

    for condition in map(check_before_loading, conditions):
        check_same_experiment(condition)
    base, other = (condition_set(run_condition(condition)) for condition in conditions)
    return base, other


def written(folder: Path) -> str:
    """A line that says where the files are."""
    return f"page: {relative(folder)}/check.html (with check.json and check.md)"
