"""What ``python -m kvhelpers`` does: run an experiment on workers, plan it, judge it again, make a sample of
it.

A command puts the other packages to work. It computes nothing of its own, and no other package knows it.
"""

__all__ = ["check", "cluster", "plan", "rescore", "run", "sample", "verify"]
