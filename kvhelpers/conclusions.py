"""Sentences computed from an experiment's cells. They turn around when the data do."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from kvhelpers.comparisons import compare_all, verdict_sentences
from kvhelpers.paired import Comparison, adjusted, compare, loops
from kvhelpers.presses import NONE
from kvhelpers.results import CellResult
from kvhelpers.tables import find_baseline, is_invalid, rate_text
from kvhelpers.validity import FLAGS, SIGNIFICANCE, baseline_is_weak

FEW = 6  # cells, or pairs of cells, that get a sentence each


def accuracy_sentences(cells: Sequence[CellResult]) -> list[str]:
    """What compression did to accuracy, against ``none`` on the same prompts: a sentence per cell, or per verdict if many."""
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
    compared = compare_all(cells)
    if len(compared) > FEW:
        return [*sentences, *verdict_sentences(compared, "Accuracy")]
    for one in compared:
        found, q = one.found["Accuracy"]
        if q >= SIGNIFICANCE:
            verdict = "not distinguishable from no compression"
        else:
            verdict = f"{'lower' if found.difference < 0 else 'higher'} than without compression"
        sentences.append(
            f"{_outcome(one.cell)}: {verdict} "
            f"({found.only_first} prompts lost, {found.only_second} gained, q = {q:.2g}, {found.n} pairs).{_caveat(one.cell)}"
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
    """Which cells loop, and whether two presses that remove the same share (or keep the same budget) differ in it.

    A baseline that solves too few prompts takes nothing away from these numbers.
    """
    looping = [cell for cell in cells if cell.summary["looping"]["count"]]
    if not looping:
        return ["No run loops."]
    listed = "; ".join(f"`{cell.label}` {_of(cell.summary['looping'])}{_mark(cell, None)}" for cell in looping)
    others = f"; none in the other {len(cells) - len(looping)} cells" if len(looping) < len(cells) else ""
    sentences = [f"Looping runs: {listed}{others}."]
    compressed = [cell for cell in cells if cell.config["press"] != NONE]
    pairs = [
        (first, second, found)
        for first, second in itertools.combinations(compressed, 2)
        if all(first.config[key] == second.config[key] for key in ("ratio", "budget"))
        and (found := compare(first, second, loops))
    ]
    tested = list(zip(pairs, adjusted([found.p for *_, found in pairs]), strict=True))
    if len(tested) <= FEW:
        return sentences + [_looping_pair(*pair, q) for pair, q in tested]
    differ = sorted((one for one in tested if one[1] < SIGNIFICANCE), key=lambda one: -abs(one[0][2].difference))
    return [
        *sentences,
        f"Of {len(tested)} pairs of cells at the same ratio or budget, {len(differ)} differ detectably in looping (q < .05)"
        + (f"; the {min(FEW, len(differ))} largest differences follow." if differ else "."),
        *(_looping_pair(*pair, q) for pair, q in differ[:FEW]),
    ]


def _looping_pair(first: CellResult, second: CellResult, found: Comparison, q: float) -> str:
    more, less = (second, first) if found.difference > 0 else (first, second)
    verdict = (
        f"`{more.label}` loops more often than `{less.label}`"
        if q < SIGNIFICANCE
        else f"`{first.label}` and `{second.label}` do not differ detectably in looping"
    )
    suspect = [f"`{cell.label}`" for cell in (first, second) if is_invalid(cell, None)]
    caveat = f" Not valid as evidence about presses: see the flags of {' and '.join(suspect)}." if suspect else ""
    return (
        f"{verdict} ({found.only_first} prompts loop only with `{first.label}`, {found.only_second} only with "
        f"`{second.label}`; q = {q:.2g}, {found.n} pairs).{caveat}"
    )


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
