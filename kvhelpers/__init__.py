"""Helpers for studying how KV-cache compression makes LLM reasoning fail.

The modules lie along the data's path: `tasks` → `models`, `presses` → `prefill`, `generation`, `signals` → `failures` →
`results`, `summary` → `tables`, `figures`, `log`. `cell` runs one press at one ratio, `experiment` a whole grid.
"""

__version__ = "0.1.0"
