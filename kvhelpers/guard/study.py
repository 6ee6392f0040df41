"""A study of actions or of a guard as it is stored: sealed JSON, compressed, a row a run."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from kvhelpers.errors import InputError
from kvhelpers.experiment.seal import sealed_text, unsealed
from kvhelpers.guard.definition import ActionsDefinition, LiveDefinition, SourceRuns
from kvhelpers.hazard.provenance import StudyProvenance
from kvhelpers.paths import relative, write_atomic
from kvhelpers.records import Shape

Row = dict[str, Any]


class Study(Shape):
    """Runs that were acted on, or guarded, and ``checks``: those that were guarded while they ran. What the
    rows hold, the study's script says.
    """

    provenance: StudyProvenance
    definition: Annotated[ActionsDefinition | LiveDefinition, Field(discriminator="kind")]
    runs: tuple[Row, ...]
    checks: tuple[Row, ...] = ()

    @property
    def sources(self) -> list[SourceRuns]:
        """Those of the definition's sources whose runs are here: it may have been made of some only."""
        there = {run["experiment"] for run in self.runs}
        return [part for part in self.definition.sources if part.experiment in there]

    def save(self, path: Path) -> Path:
        """Write the study; the same one gives the same bytes."""
        data = gzip.compress(sealed_text(self.model_dump_json()).encode(), mtime=0)
        return write_atomic(path, lambda temporary: temporary.write_bytes(data))


def read_study(path: Path) -> Study:
    """Read what `Study.save` wrote. Raises InputError if the file is no study, or was changed."""
    try:
        return Study.model_validate(unsealed(gzip.decompress(Path(path).read_bytes()).decode()))
    except (OSError, ValueError, EOFError, RecursionError, zlib.error) as error:
        raise InputError(
            f"study file {relative(path)} is no study of actions or of a guard, or was changed ({error!r})"
        ) from error
