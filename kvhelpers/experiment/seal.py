"""Notice that a stored result was changed after it was written.

A result's JSON holds the SHA-256 of each of its parts and of its signals file. That guards against
accidents and edits that forget it, not against forgers: `commands.verify` also computes again what follows
from the rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from kvhelpers.experiment.plain import plain_hash
from kvhelpers.models.source import sha256_of

SEAL, SIGNALS = "seal", "signals"


def sealed(data: Mapping[str, Any], signals: Path) -> dict[str, Any]:
    """A result's JSON data with its seal; ``signals`` is its signals file."""
    unsealed = {key: value for key, value in data.items() if key != SEAL}
    return unsealed | {SEAL: _parts(unsealed) | {SIGNALS: file_hash(signals)}}


def changed_parts(data: Mapping[str, Any]) -> list[str]:
    """The parts of a sealed result's JSON that are not what they were, as words; its signals aside."""
    seal = data.get(SEAL)
    if not isinstance(seal, dict) or not isinstance(seal.get(SIGNALS), str):
        return [SEAL]
    now = _parts({key: value for key, value in data.items() if key != SEAL})
    then = {key: value for key, value in seal.items() if key != SIGNALS}
    if isinstance(then.get("records"), list) and isinstance(data["records"], list):  # so in schema 4
        now["records"] = [plain_hash(record) for record in data["records"]]
    return [key for key in {**then, **now} if now.get(key) != then.get(key)]


def sealed_text(text: str) -> str:
    """The text of a JSON object with the SHA-256 of the whole at its end, for data of one file."""
    return f'{text[:-1]},"{SEAL}":"{plain_hash(json.loads(text))}"}}\n'


def unsealed(text: str) -> dict[str, Any]:
    """What `sealed_text` sealed. Raises ValueError if it is no such text, or was changed since."""
    data = json.loads(text)
    if not isinstance(data, dict) or data.pop(SEAL, None) != plain_hash(data):
        raise ValueError("it has no seal, or was changed after it was written")
    return data


def _parts(data: Mapping[str, Any]) -> dict[str, str]:
    return {key: plain_hash(value) for key, value in data.items()}


def file_hash(path: Path) -> str:
    """SHA-256 of a file; computed again only where its inode, size or times differ."""
    stat = path.stat()
    return _file_hash(path, (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))


@lru_cache(maxsize=1024)
def _file_hash(path: Path, _: tuple[int, ...]) -> str:
    return sha256_of(path)
