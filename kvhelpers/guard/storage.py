"""How a study is stored: sealed JSON, compressed, since it holds every run that was acted on."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import TypeVar

from kvhelpers.errors import InputError
from kvhelpers.experiment.seal import sealed_text, unsealed
from kvhelpers.paths import relative, write_atomic
from kvhelpers.records import Shape

Study = TypeVar("Study", bound=Shape)


def write_study(study: Shape, path: Path) -> Path:
    """Write a study; the same one gives the same bytes."""
    data = gzip.compress(sealed_text(study.model_dump_json()).encode(), mtime=0)
    return write_atomic(path, lambda temporary: temporary.write_bytes(data))


def read_study(path: Path, kind: type[Study], what: str) -> Study:
    """Read what `write_study` wrote; ``what`` says what it should be a study of. Raises InputError if the
    file is none, or was changed.
    """
    try:
        return kind.model_validate(unsealed(gzip.decompress(Path(path).read_bytes()).decode()))
    except (OSError, ValueError, EOFError, RecursionError, zlib.error) as error:
        raise InputError(f"study file {relative(path)} is no study of {what} ({error!r})") from error
