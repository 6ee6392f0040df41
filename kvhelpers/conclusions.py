"""Sentences computed from an experiment's cells. They turn around when the data do."""

from __future__ import annotations

from collections.abc import Sequence

from scipy.stats import binomtest

from kvhelpers.results import CellResult
from kvhelpers.summary import wilson
from kvhelpers.tables import find_baseline, rate_text
from kvhelpers.validity import FLAGS, INVALIDATING, SIGNIFICANCE, baseline_is_weak


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


def looping_sentences(cells: Sequence[CellResult]) -> list[str]:
    """Which cells loop, and whether two presses at the same ratio differ in it."""
    sentences = []
    looping = [cell for cell in cells if cell.summary["looping"]["count"]]
    if not looping:
        return ["No run loops."]
    listed = "; ".join(f"`{cell.label}` {_of(cell.summary['looping'])}" for cell in looping)
    others = f"; none in the other {len(cells) - len(looping)} cells" if len(looping) < len(cells) else ""
    sentences.append(f"Looping runs: {listed}{others}.")
    compressed = [cell for cell in cells if cell.config["press"] != "none" and cell.config["ratio"]]
    for index, first in enumerate(compressed):
        for second in compressed[index + 1 :]:
            if first.config["ratio"] != second.config["ratio"] or first.config["press"] == second.config["press"]:
                continue
            a, b, p, pairs = paired(first, second, lambda record: record["failures"]["looping"])
            more, less = (first, second) if a > b else (second, first)
            verdict = (
                f"`{more.label}` loops more often than `{less.label}`"
                if p < SIGNIFICANCE
                else f"`{first.label}` and `{second.label}` do not differ detectably in looping"
            )
            suspect = [f"`{c.label}`" for c in (first, second) if any(name in INVALIDATING for name in c.summary["flags"])]
            caveat = f" Not valid as evidence about presses: {' and '.join(suspect)} is flagged above." if suspect else ""
            sentences.append(
                f"{verdict} ({a} prompts loop only with `{first.label}`, {b} only with `{second.label}`; "
                f"McNemar's exact p = {p:.2g}, {pairs} pairs).{caveat}"
            )
    return sentences


def spike_sentences(cells: Sequence[CellResult]) -> list[str]:
    """Whether the largest entropy of a looping run comes before its loop."""
    before, after, immediate = 0, 0, 0
    for cell in cells:
        entropy = cell.signals().set_index("prompt_index")["entropy"]
        for record in cell.records:
            onset = record["failures"]["loop_onset"]
            if not record["failures"]["looping"]:
                continue
            if onset == 0:
                immediate += 1
            elif entropy.loc[record["prompt_index"]].to_numpy().argmax() < onset:
                before += 1
            else:
                after += 1
    if before + after + immediate == 0:
        return ["No run loops, so nothing can be said about entropy before loops."]
    sentences = []
    if immediate:
        sentences.append(f"{immediate} looping runs loop from their first token: nothing can precede those.")
    if before + after:
        rate = wilson(before, before + after)
        if rate["low"] > 0.5:
            verdict = "the largest entropy usually precedes the loop"
        elif rate["high"] < 0.5:
            verdict = "the largest entropy usually does not precede the loop"
        else:
            verdict = "whether the largest entropy usually precedes the loop stays open"
        sentences.append(
            f"In {_of(rate)} looping runs with a token before the onset, the run's largest entropy comes before the onset: "
            f"{verdict}. This says nothing yet about prediction: healthy runs have a largest entropy too."
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


def _caveat(cell: CellResult) -> str:
    """What to hold against a cell's numbers; invalidating flags say that they are no evidence about the press."""
    flags = cell.summary["flags"]
    told = "; ".join(f"{FLAGS[name]} ({count} of {cell.summary['n']} runs)" for name, count in flags.items())
    if any(name in INVALIDATING for name in flags):
        return f" **Not valid as evidence about `{cell.config['press']}`:** {told}."
    return f" Note: {told}." if told else ""
