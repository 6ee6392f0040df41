"""The log's section "Statistics": every compressed cell against the uncompressed runs of the same prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from kvhelpers.cliff import Cliff, curves, find_cliff
from kvhelpers.experiment import Contrast
from kvhelpers.paired import (
    POWER,
    Comparison,
    adjusted,
    compare,
    detectable_drop,
    fewest_discordant,
    is_correct,
    loops,
    never_ends,
)
from kvhelpers.results import CellResult
from kvhelpers.tables import amount, find_baseline, is_invalid, percent
from kvhelpers.validity import SIGNIFICANCE

OUTCOMES = {"Accuracy": is_correct, "Loops or does not end": never_ends}
GAINED = 0.05  # share of prompts mended, in the second statement of power


@dataclass(frozen=True)
class Compared:
    """A cell against the uncompressed one: by outcome, the comparison and its q-value over all cells and outcomes."""

    cell: CellResult
    found: Mapping[str, tuple[Comparison, float]]


def compare_all(cells: Sequence[CellResult]) -> list[Compared]:
    """All compressed cells, in order, that share prompts with the uncompressed one; q-values over the whole grid."""
    baseline = find_baseline(cells)
    if baseline is None:
        return []
    pairs = [
        (cell, {name: compare(baseline, cell, outcome) for name, outcome in OUTCOMES.items()})
        for cell in cells
        if cell is not baseline
    ]
    pairs = [(cell, found) for cell, found in pairs if None not in found.values()]
    q = iter(adjusted([one.p for _, found in pairs for one in found.values()]))
    return [Compared(cell, {name: (one, next(q)) for name, one in found.items()}) for cell, found in pairs]


def comparison_table(compared: Sequence[Compared], outcome: str) -> pd.DataFrame:
    """One row per compressed cell: the outcome's paired change in percentage points, discordant prompts, p, q and n."""
    rows = []
    for one in compared:
        found, q = one.found[outcome]
        rows.append(
            {
                "Press": one.cell.config["press"],
                "Ratio": amount(one.cell),
                "Kept tokens": _kept(one.cell),
                "Change (points)": found.points(),
                "Only uncompressed": found.only_first,
                "Only compressed": found.only_second,
                "p": f"{found.p:.2g}",
                "q": f"{q:.2g}",
                "n": found.n,
            }
        )
    return pd.DataFrame(rows)


def cliff_table(cliffs: Sequence[Cliff]) -> pd.DataFrame:
    """One row per press: where accuracy falls to half, as removed share and as kept tokens, with 95 % intervals."""
    return pd.DataFrame(
        [
            {
                "Press": cliff.curve.press,
                "Fields": cliff.curve.fields or "–",
                "Removed share": cliff.removed_text(),
                "Kept tokens": cliff.kept_text(),
                "n": cliff.n,
                "Note": "the cell below is not valid, see its flags" if cliff.suspect else "–",
            }
            for cliff in cliffs
        ]
    )


def find_cliffs(cells: Sequence[CellResult]) -> list[Cliff]:
    """The cliffs of all presses that have one to look for, the one that keeps its accuracy longest first."""
    baseline = find_baseline(cells)
    found = [find_cliff(baseline, curve) for curve in curves(cells)] if baseline else []
    return sorted((cliff for cliff in found if cliff), key=lambda cliff: cliff.kept[0])


def power_sentence(n: int) -> str:
    """What a paired test on ``n`` prompts can see."""

    def drop(share: float | None) -> str:
        return "not even the loss of all" if share is None else f"{100 * share:.0f} points"

    least = fewest_discordant()
    return (
        f"With {n} prompts McNemar's exact test needs at least {least} changed prompts ({100 * least / n:.0f} points), all in "
        f"one direction, to reach p < .05. The smallest true drop in accuracy that it finds with {100 * POWER:.0f} % power is "
        f"{drop(detectable_drop(n))} if compression mends no prompt, and {drop(detectable_drop(n, GAINED))} if it mends "
        f"{100 * GAINED:.0f} % of them, before the correction for many tests, which makes these larger. Smaller differences "
        "may be there and not be seen."
    )


def verdict_sentences(compared: Sequence[Compared], outcome: str) -> list[str]:
    """For one outcome, which cells differ from the uncompressed runs, by q-value."""
    groups: dict[str, list[str]] = {"higher": [], "lower": [], "not distinguishable": []}
    for one in compared:
        found, q = one.found[outcome]
        verdict = "not distinguishable" if q >= SIGNIFICANCE else "higher" if found.difference > 0 else "lower"
        suspect = ", not valid, see its flags" if is_invalid(one.cell, None) else ""
        groups[verdict].append(f"`{one.cell.label}` ({found.points()} points{suspect})")
    told = {"higher": "higher than", "lower": "lower than", "not distinguishable": "not distinguishable from"}
    return [
        f"{outcome}: {told[verdict]} without compression in {len(named)} of {len(compared)} cells"
        + (f": {'; '.join(named)}." if named else ".")
        for verdict, named in groups.items()
    ]


def contrast_sentences(cells: Sequence[CellResult], contrasts: Sequence[Contrast]) -> list[str]:
    """One sentence per contrast of an experiment file: two cells, their accuracy and looping on the same prompts.

    q-values are over all contrasts and both outcomes.
    """
    by_label = {cell.label: cell for cell in cells}
    named = [(one, by_label.get(one.first), by_label.get(one.second)) for one in contrasts]
    ready = [(one, first, second) for one, first, second in named if first and second and compare(first, second, loops)]
    found = [[compare(second, first, outcome) for outcome in (loops, is_correct)] for _, first, second in ready]
    q = iter(adjusted([one.p for pair in found for one in pair]))
    sentences = []
    for (one, first, second), (looping, accuracy) in zip(ready, found, strict=True):
        kept = " and ".join(dict.fromkeys(_kept(cell) for cell in (first, second)))
        told = "; ".join(
            f"{name} {_rate(first, key)} against {_rate(second, key)}, difference {comparison.points()} points, "
            f"{_verdict(comparison, next(q))}"
            for name, key, comparison in (("looping", "looping", looping), ("accuracy", "accuracy", accuracy))
        )
        cells_of = f"`{first.label}` against `{second.label}` ({kept} kept tokens, n = {looping.n})"
        sentences.append(f"{one.about}: {cells_of}: {told}.")
    missing = [f"`{one.first}` against `{one.second}`" for one, *pair in named if None in pair]
    return sentences + ([f"Not yet compared, since a cell is missing: {', '.join(missing)}."] if missing else [])


def _kept(cell: CellResult) -> str:
    kept = cell.summary["kept_tokens"]
    return "–" if kept is None else f"{kept:.0f}"


def _rate(cell: CellResult, name: str) -> str:
    return percent(cell.summary[name]["rate"])


def _verdict(found: Comparison, q: float) -> str:
    verdict = "not distinguishable" if q >= SIGNIFICANCE else "higher" if found.difference > 0 else "lower"
    return f"{verdict} (q = {q:.2g})"
