"""Figures of studies as matplotlib objects; those of an experiment of conditions: `kvhelpers.plots`."""
