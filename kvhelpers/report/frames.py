"""Tables as CSV files beside the figures.

Rates and shares are between 0 and 1, entropies in nats, ``low`` and ``high`` are 95 % intervals, ``n`` counts
runs unless a column says otherwise. Missing values are empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from kvhelpers.paths import write_atomic

DIGITS = 6


def save_frames(frames: Mapping[str, pd.DataFrame], folder: Path) -> list[Path]:
    """Write those tables that have a row as ``<name>.csv``; return their paths."""
    paths = []
    for name, frame in frames.items():
        path = folder / f"{name}.csv"
        if len(frame):
            text = frame.round(DIGITS).to_csv(index=False, lineterminator="\n")
            paths.append(
                write_atomic(path, lambda temporary, text=text: temporary.write_text(text, encoding="utf-8"))
            )
        else:
            path.unlink(missing_ok=True)
    return paths
