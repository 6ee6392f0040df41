"""The log's section "Statistics", and its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from kvhelpers import comparisons, sweepfigures
from kvhelpers.cliff import curves
from kvhelpers.experiment import Contrast
from kvhelpers.results import CellResult
from kvhelpers.signallog import image
from kvhelpers.tables import find_baseline, markdown_table


def draw(cells: Sequence[CellResult]) -> dict[str, Figure]:
    """The section's figures by name; those that have nothing to show are missing."""
    drawn = {
        "kept": sweepfigures.rates_by_kept(curves(cells), find_baseline(cells)),
        "cache": sweepfigures.cache_over_time(cells),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def section(cells: Sequence[CellResult], contrasts: Sequence[Contrast], images: Mapping[str, str]) -> list[str]:
    """Paragraphs: paired differences, cliffs, contrasts, and what the tests can see."""
    compared = comparisons.compare_all(cells)
    if not compared:
        return ["No compressed cell has an uncompressed one with the same prompts: nothing to compare."]
    parts = [
        "Every compressed cell against the uncompressed runs of the same prompts: change of a rate in percentage points with "
        "its 95 % interval (Bonett and Price 2012), McNemar's exact test (p), and q, which corrects p for the "
        f"{len(compared) * len(comparisons.OUTCOMES)} tests of both tables (Benjamini and Hochberg 1995).",
    ]
    for outcome in comparisons.OUTCOMES:
        parts += [f"**{outcome}.**", markdown_table(comparisons.comparison_table(compared, outcome))]
    parts += [image(images, "kept", "Rates against kept tokens, with Wilson 95 % bands")]
    if cliffs := comparisons.find_cliffs(cells):
        parts += [
            "### Cliffs",
            "Where accuracy falls to half of the uncompressed accuracy, interpolated between cells, with 95 % intervals by "
            "bootstrap over prompts; `>` and `<` mean that it does not fall so far within the cells there are.",
            markdown_table(comparisons.cliff_table(cliffs)),
        ]
    if contrasts:
        answer = " ".join(comparisons.contrast_sentences(cells, contrasts))
        parts += ["### Answer", answer]
    parts += [image(images, "cache", "Cached tokens while the answer is written")]
    parts += ["### What these tests can see", comparisons.power_sentence(compared[0].found["Accuracy"][0].n)]
    return parts
