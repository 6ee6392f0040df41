"""What is shown of a run's text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from kvhelpers.analysis.runs import instructive_run
from kvhelpers.errors import InputError, unknown_name
from kvhelpers.experiment.results import ConditionResult
from kvhelpers.paths import labels_dir, relative
from kvhelpers.records import FailureMode, Record

LENGTH = 400  # characters; of a looping run, half of them before the onset
LOOP, CUT = "⟦loop⟧", "[…]"


@dataclass(frozen=True)
class Excerpt:
    """A run, the label of its condition, and a part of its text: model output, to be escaped.

    `LOOP` marks the onset of the loop, `CUT` what is left out.
    """

    label: str
    record: Record
    text: str


def read_labels(experiment: str) -> dict[tuple[str, str], str]:
    """The mode that a person gave to runs of an experiment, by the condition's label and the prompt's id;
    none where there is no file of labels, as beside an installed package.

    Raises
    ------
    InputError : the file cannot be read, lacks a column, or has a mode that is none.
    """
    path = labels_dir() / "specimens.csv"
    if not path.exists():
        return {}
    try:
        labels = pd.read_csv(path)[["experiment", "condition", "prompt", "mode"]]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"labels file {relative(path)} cannot be read: {error}") from error
    for mode in labels["mode"]:
        if mode not in list(FailureMode):
            raise unknown_name(f"labels file {relative(path)}: mode", mode, FailureMode)
    labels = labels[labels["experiment"] == experiment]
    return {(row.condition, row.prompt): row.mode for row in labels.itertuples()}


def specimens(
    results: Sequence[ConditionResult],
    modes: Sequence[str],
    labels: Mapping[tuple[str, str], str],
) -> list[tuple[FailureMode, Excerpt | None]]:
    """A run of each mode that is a failure of the model: the instructive run if it is one, else the first
    compressed one, else the first. A run that a person gave another mode is not shown.

    ``modes`` are those of all runs, in the order of `frames.runs`.
    """
    runs = [(result, record) for result in results for record in result.records]
    mode_of = {id(record): mode for (_, record), mode in zip(runs, modes, strict=True)}
    order = [instructive_run(results), *sorted(runs, key=lambda run: run[0].condition.is_baseline)]
    shown = []
    for mode in reversed(FailureMode):
        if mode not in (FailureMode.CORRECT, FailureMode.ERRORED):
            of_mode = (
                run
                for run in order
                if mode_of[id(run[1])] == mode and labels.get((run[0].label, run[1].prompt_id), mode) == mode
            )
            run = next(of_mode, None)
            shown.append((mode, make_excerpt(*run) if run else None))
    return shown


def make_excerpt(result: ConditionResult, record: Record) -> Excerpt:
    """The beginning of a run's text; of a looping run, the part around its onset."""
    text, first = record.text, 0
    if record.onset is not None:
        onset = record.loop_onset_char
        text, first = f"{text[:onset]}{LOOP}{text[onset:]}", max(0, onset - LENGTH // 2)
    before, after = f"{CUT} " if first else "", f" {CUT}" if len(text) > first + LENGTH else ""
    return Excerpt(result.label, record, before + text[first : first + LENGTH] + after)
