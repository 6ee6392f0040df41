"""Where a study comes from: the command that makes it again, code, machine and packages."""

from __future__ import annotations

import os

from threadpoolctl import threadpool_info

from kvhelpers.experiment.provenance import code_version, package_versions, processor
from kvhelpers.records import Shape

PACKAGES = ("kvhelpers", "numpy", "scipy", "scikit-learn", "pandas")


class StudyProvenance(Shape):
    """Where a study comes from. ``command`` makes it again; ``clean`` says whether the package had no changes
    beside the ``commit``. ``threads`` are those of the numeric libraries. None: not noted.
    """

    command: str | None
    commit: str | None
    clean: bool | None
    processor: str | None
    cores: int | None
    threads: int | None
    versions: dict[str, str]


def study_provenance(command: str | None) -> StudyProvenance:
    """Where a study comes from that this process begins to make now, by this command."""
    commit, clean = code_version()
    return StudyProvenance(
        command=command,
        commit=commit,
        clean=clean,
        processor=processor(),
        cores=os.cpu_count(),
        threads=max((pool["num_threads"] for pool in threadpool_info()), default=None),
        versions=package_versions(PACKAGES),
    )
