"""Signals of finished runs, one after the other."""
