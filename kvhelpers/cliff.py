"""Where a press falls off: the ratio, and the kept tokens, at which accuracy is half of the uncompressed accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvhelpers.bootstrap import intervals
from kvhelpers.config import kwargs_text
from kvhelpers.results import CellResult
from kvhelpers.tables import find_baseline, is_invalid
from kvhelpers.validity import baseline_is_weak

SHARE = 0.5  # of the uncompressed accuracy


@dataclass(frozen=True)
class Curve:
    """The cells of one press with one set of its own fields, by falling number of kept tokens."""

    press: str
    fields: str
    cells: tuple[CellResult, ...]

    @property
    def name(self) -> str:
        return self.press + (f" ({self.fields})" if self.fields else "")

    @property
    def kept(self) -> list[float]:
        """Mean kept tokens of each cell."""
        return [cell.summary["kept_tokens"] for cell in self.cells]


@dataclass(frozen=True)
class Cliff:
    """A curve's cliff as removed share of the prompt's cache and as kept tokens, with 95 % intervals.

    Each is (value, low, high). A share above ``last_removed`` or a count below ``last_kept``, the curve's end, means that the
    curve does not fall so far. ``suspect``: the cell below the crossing has a flag that takes away its meaning.
    """

    curve: Curve
    removed: tuple[float, float, float]
    kept: tuple[float, float, float]
    last_removed: float
    last_kept: float
    n: int
    suspect: bool

    def removed_text(self) -> str:
        """``0.71 [0.64, > 0.88]``."""
        return _text(self.removed, lambda x: f"> {self.last_removed:.2f}" if x > self.last_removed else f"{x:.2f}")

    def kept_text(self) -> str:
        """``92 [< 40, 118]``."""
        return _text(self.kept, lambda x: f"< {self.last_kept:.0f}" if x < self.last_kept else f"{x:.0f}")


def _text(values: tuple[float, float, float], one) -> str:
    value, low, high = values
    return f"{one(value)} [{'no interval' if np.isnan(low) else f'{one(low)}, {one(high)}'}]"


def curves(cells: Sequence[CellResult]) -> list[Curve]:
    """The compressed cells that kept something, by press and fields, in the order of the cells."""
    found: dict[tuple[str, str], list[CellResult]] = {}
    for cell in cells:
        if cell is not find_baseline(cells) and cell.summary["kept_tokens"] is not None:
            found.setdefault((cell.config["press"], kwargs_text(cell.config["press_kwargs"])), []).append(cell)
    return [
        Curve(press, fields, tuple(sorted(members, key=lambda cell: -cell.summary["kept_tokens"])))
        for (press, fields), members in found.items()
    ]


def find_cliff(baseline: CellResult, curve: Curve) -> Cliff | None:
    """The first point, going down the curve from no compression, where accuracy is half of the uncompressed one.

    Accuracy between two cells is interpolated linearly. Intervals by bootstrap over prompts; all cells of a draw have the same
    prompts. None without two compressed cells on the same prompts, or where the uncompressed model solves too few.
    """
    points = (baseline, *curve.cells)
    right = [{record["prompt_id"]: record["correct"] for record in cell.records} for cell in points]
    prompts = sorted(set.intersection(*map(set, right)))
    if len(curve.cells) < 2 or not prompts or baseline_is_weak(sum(right[0][prompt] for prompt in prompts)):
        return None
    correct = np.array([[one[prompt] for one in right] for prompt in prompts], dtype=float)
    whole = baseline.summary["prompt_tokens"]
    kept = np.array([whole, *curve.kept])

    def crossing(weights: np.ndarray) -> np.ndarray:
        at = np.array([_crossing(row, kept) for row in weights @ correct / weights.sum(1, keepdims=True)])
        return np.stack([1 - at / whole, at], axis=1)

    removed, in_tokens = zip(*intervals(crossing, prompts), strict=True)
    below = np.flatnonzero(correct.mean(0) <= SHARE * correct[:, 0].mean())
    suspect = bool(len(below)) and is_invalid(points[below[0]], None)
    return Cliff(curve, removed, in_tokens, 1 - kept[-1] / whole, kept[-1], len(prompts), suspect)


def _crossing(accuracy: np.ndarray, kept: np.ndarray) -> float:
    """Kept tokens at the first crossing of half the first accuracy; 0 if there is none, NaN if nothing is solved."""
    half = SHARE * accuracy[0]
    below = np.flatnonzero(accuracy <= half)
    if half == 0:
        return np.nan
    if not len(below):
        return 0.0
    after = below[0]
    share = (accuracy[after - 1] - half) / (accuracy[after - 1] - accuracy[after])
    return kept[after - 1] + share * (kept[after] - kept[after - 1])
