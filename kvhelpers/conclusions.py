"""Sentences computed from an experiment's cells. They turn around when the data do."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from scipy.stats import binomtest

from kvhelpers.presses import NONE
from kvhelpers.results import CellResult
from kvhelpers.tables import find_baseline, is_invalid, rate_text
from kvhelpers.validity import FLAGS, SIGNIFICANCE, baseline_is_weak


def paired(first: CellResult, second: CellResult, key) -> tuple[int, int, float, int]:
    """Compare two cells on their common prompts: (only first, only second, McNemar's exact two-sided p, pairs).

    ``key`` maps a record to a boolean; McNemar 1947, exact form: a binomial test on the discordant pairs.
    """
    others = {record["prompt_id"]: key(record) for record in second.records}
    pairs = [(key(record), others[record["prompt_id"]]) for record in first.records if record["prompt_id"] in others]
    only_first = sum(a and not b for a, b in pairs)
    only_second = sum(b and not a for a, b in pairs)
    discordant = only_first + only_second
    p = float(binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return only_first, only_second, p, len(pairs)


def accuracy_sentences(cells: Sequence[CellResult]) -> list[str]:
    """What compression did to accuracy: one sentence per compressed cell, against ``none`` on the same prompts."""
    baseline = find_baseline(cells)
    if baseline is None:
        return ["There is no uncompressed cell, so no drop can be stated."]
    accuracy = baseline.summary["accuracy"]
    sentences = [f"Without compression {_solved(accuracy)}."]
    if baseline_is_weak(accuracy["count"]):
        sentences.append(
            "That is too few to show a drop: even if compression broke every one of them, McNemar's exact test could not "
            "reach p < .05. Differences in accuracy below mean nothing."
        )
    for cell in cells:
        if cell is baseline:
            continue
        lost, gained, p, pairs = paired(baseline, cell, lambda record: record["correct"])
        if p < SIGNIFICANCE:
            verdict = "lower than without compression" if lost > gained else "higher than without compression"
        else:
            verdict = "not distinguishable from no compression"
        sentences.append(
            f"{_outcome(cell)}: {verdict} "
            f"({lost} prompts lost, {gained} gained, McNemar's exact p = {p:.2g}, {pairs} pairs).{_caveat(cell)}"
        )
    return sentences


def cell_sentence(cell: CellResult) -> str:
    """One cell by itself."""
    return f"{_outcome(cell)}; {_of(cell.summary['cfr'])} fail catastrophically.{_caveat(cell)}"


def catastrophe_sentences(cells: Sequence[CellResult]) -> list[str]:
    """Catastrophic failure, and the share of it that is non-termination."""
    baseline = find_baseline(cells)
    listed = "; ".join(
        f"`{cell.label}` {_of(cell.summary['cfr'])}, of which {cell.summary['non_termination']['count']} do not terminate"
        + _mark(cell, baseline)
        for cell in cells
    )
    return [f"Catastrophic failures: {listed}."]


def looping_sentences(cells: Sequence[CellResult]) -> list[str]:
    """Which cells loop, and whether two presses that remove the same share (or keep the same budget) differ in it."""
    baseline = find_baseline(cells)
    looping = [cell for cell in cells if cell.summary["looping"]["count"]]
    if not looping:
        return ["No run loops."]
    listed = "; ".join(f"`{cell.label}` {_of(cell.summary['looping'])}{_mark(cell, baseline)}" for cell in looping)
    others = f"; none in the other {len(cells) - len(looping)} cells" if len(looping) < len(cells) else ""
    sentences = [f"Looping runs: {listed}{others}."]
    compressed = [cell for cell in cells if cell.config["press"] != NONE]
    for first, second in itertools.combinations(compressed, 2):
        if any(first.config[key] != second.config[key] for key in ("ratio", "budget")):
            continue
        a, b, p, pairs = paired(first, second, lambda record: record["failures"]["looping"])
        more, less = (first, second) if a > b else (second, first)
        verdict = (
            f"`{more.label}` loops more often than `{less.label}`"
            if p < SIGNIFICANCE
            else f"`{first.label}` and `{second.label}` do not differ detectably in looping"
        )
        suspect = [f"`{cell.label}`" for cell in (first, second) if is_invalid(cell, baseline)]
        caveat = f" Not valid as evidence about presses: see the flags of {' and '.join(suspect)}." if suspect else ""
        sentences.append(
            f"{verdict} ({a} prompts loop only with `{first.label}`, {b} only with `{second.label}`; "
            f"McNemar's exact p = {p:.2g}, {pairs} pairs, not corrected for the number of comparisons).{caveat}"
        )
    return sentences


def cut_sentences(cells: Sequence[CellResult]) -> list[str]:
    """Names the runs that failed or ran out of time; they count in every denominator."""
    return [
        f"`{cell.label}`, prompt {record['prompt_id']}: {record['stop_reason']}"
        + (f", {record['error']}." if record["error"] else ".")
        for cell in cells
        for record in cell.records
        if record["stop_reason"] in ("error", "timeout")
    ]


def _of(rate) -> str:
    return f"{rate['count']} of {rate['n']} ({rate_text(rate)})"


def _solved(rate) -> str:
    return f"{_of(rate)} prompts are solved"


def _outcome(cell: CellResult) -> str:
    kept = cell.summary["kept_tokens"]
    held = f", keeping {kept:.0f} of {cell.summary['prompt_tokens']:.0f} prompt tokens," if kept is not None else ""
    return f"With `{cell.label}`{held} {_solved(cell.summary['accuracy'])}"


def _mark(cell: CellResult, baseline: CellResult | None) -> str:
    return " (not valid, see its flags)" if is_invalid(cell, baseline) else ""


def _caveat(cell: CellResult) -> str:
    """What to hold against a cell's numbers, whatever the baseline; invalid ones are no evidence about the press."""
    told = "; ".join(f"{FLAGS[name]} ({count} of {cell.summary['n']} runs)" for name, count in cell.summary["flags"].items())
    if is_invalid(cell, None):
        return f" **Not valid as evidence about `{cell.config['press']}`:** {told}."
    return f" Note: {told}." if told else ""
