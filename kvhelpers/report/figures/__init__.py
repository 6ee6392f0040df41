"""Figures as matplotlib objects: of conditions and single runs, of sweeps over kept tokens, of signals."""

from kvhelpers.report.figures.cache import cache_over_time
from kvhelpers.report.figures.condition import outcomes, token_trace, trace
from kvhelpers.report.figures.modes import mode_bars
from kvhelpers.report.figures.signals import aligned, discriminator_dots, heat_map
from kvhelpers.report.figures.style import save
from kvhelpers.report.figures.sweep import rates_by_kept

__all__ = [
    "aligned",
    "cache_over_time",
    "discriminator_dots",
    "heat_map",
    "mode_bars",
    "outcomes",
    "rates_by_kept",
    "save",
    "token_trace",
    "trace",
]
