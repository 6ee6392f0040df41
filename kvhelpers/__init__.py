"""Helpers for studying how KV-cache compression makes LLM reasoning fail.

Packages lie along the data's path, and import only from what stands before them: `records` → `stats` →
`tasks` → `models` → `presses` → `generation` → `scoring` → `experiment` → `frames` → `signals` → `hazard` →
`guard` → `plots` → `log` → `commands`.
"""

__version__ = "0.1.0"
