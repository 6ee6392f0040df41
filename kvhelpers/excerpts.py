"""What is shown of runs that failed: one of each mode, and a short part of its text."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from kvhelpers import frames
from kvhelpers.errors import InputError, unknown_name
from kvhelpers.format import model_output
from kvhelpers.paths import labels_dir, relative
from kvhelpers.records import FailureMode

LENGTH = 100  # characters of a run's text; of a looping run, half of them before the onset
LOOP, CUT = "⟦loop⟧", "[…]"


def read_labels(experiment: str) -> dict[tuple[str, str], str]:
    """The mode that a person gave to runs of an experiment, by condition and prompt; none where there is no
    file of labels, as beside an installed package.

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


def specimens(runs: pd.DataFrame, labels: Mapping[tuple[str, str], str]) -> pd.DataFrame:
    """A run of each mode that is a failure of the model: the looping one with most tokens before its onset,
    else the first compressed one, else the first. A run that a person gave another mode is not shown.
    """
    keys = zip(runs["condition"], runs["prompt"], strict=True)
    read = [labels.get(key, mode) for key, mode in zip(keys, runs["mode"], strict=True)]
    failed = runs[(runs["mode"] == read) & ~runs["mode"].isin([FailureMode.CORRECT, FailureMode.ERRORED])]
    order = failed.assign(
        plain=frames.uncompressed(failed), void=~failed["valid"], early=-failed["onset"].astype(float)
    )
    order = order.sort_values(["void", "early", "plain"], kind="stable")
    return order.drop_duplicates("mode").sort_values(
        "mode", key=lambda modes: -modes.map(list(FailureMode).index)
    )


def excerpts(runs: pd.DataFrame, labels: Mapping[tuple[str, str], str]) -> list[str]:
    """A short part of one run of each failure mode, model output in a block that it cannot break out of."""
    parts = []
    n = runs["mode"].value_counts()
    for one in specimens(runs, labels).itertuples():
        text, first = one.text, 0
        if pd.notna(one.onset):
            onset = int(one.onset_char)
            text, first = f"{text[:onset]}{LOOP}{text[onset:]}", max(0, onset - LENGTH // 2)
        before, after = f"{CUT} " if first else "", f" {CUT}" if len(text) > first + LENGTH else ""
        at = f", loop from token {one.onset} on" if pd.notna(one.onset) else ""
        parts.append(
            f"**{str(one.mode).capitalize()}** ({n[one.mode]} runs): `{one.condition}`, {one.prompt}, "
            "right answer "
            f"{one.reference}{at}:"
        )
        parts.append(model_output(before + text[first : first + LENGTH] + after))
    return parts or ["No run failed."]
