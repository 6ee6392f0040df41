"""Which weights are loaded: safetensors of the model's own folder, all that it needs and no others."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, cached_file, logging

from kvhelpers.errors import InputError
from kvhelpers.models.source import remembered_sha256

N_NAMED = 3  # keys that are named in a message; the others are counted


def check_weight_files(where: str) -> None:
    """Look at which files would be loaded, before one is.

    ``where`` is a folder or a hub id; only what names files is downloaded.

    Raises
    ------
    InputError : a file outside the folder or of another format than safetensors would be loaded, or an
        adapter.
    """
    if _json_object(where, "adapter_config.json"):
        raise InputError("it is an adapter (adapter_config.json); merge it into its base model first")
    for said_by, file in _named_files(where):
        if not isinstance(file, str) or not re.fullmatch(r"[^/\\]+\.safetensors", file):
            raise InputError(
                f"{said_by} names {file!r}; only .safetensors files in the model's own folder are loaded"
            )


def _named_files(where: str) -> Iterator[tuple[str, Any]]:
    """Weight files that the configuration or the index names, with the file that says so."""
    named = _json_object(where, "config.json").get("transformers_weights")
    if named is not None and not str(named).endswith(".safetensors.index.json"):
        yield "config.json", named
        return
    for index in dict.fromkeys(filter(None, (named, SAFE_WEIGHTS_INDEX_NAME))):
        weight_map = _json_object(where, index).get("weight_map", {})
        if not isinstance(weight_map, dict):
            raise InputError(f"{index} has no weight_map of names")
        yield from ((index, file) for file in weight_map.values())


def _json_object(where: str, name: str) -> dict[str, Any]:
    """What a model's JSON file holds; nothing if there is no such file."""
    file = cached_file(
        where,
        name,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    content = json.loads(Path(file).read_text(encoding="utf-8")) if file else {}
    if not isinstance(content, dict):
        raise InputError(f"{name} holds no JSON object")
    return content


@contextmanager
def quiet() -> Iterator[None]:
    """No bar per weight tensor, which fills a notebook with hundreds of lines, and no report on weights:
    `check_complete` says the same in one sentence.
    """
    verbosity = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def check_complete(info: Mapping[str, Any]) -> None:
    """Check the loading info of transformers, which leaves out what a model may lack, such as tied weights.

    Raises
    ------
    InputError : weights that the configuration asks for are missing or of another shape, or there are others.
    """
    faults = {
        "lack": info["missing_keys"],
        "have, beside those it asks for,": info["unexpected_keys"],
        "have in another shape": [name for name, *_ in info["mismatched_keys"]],
    }
    told = [f"{fault} {_some(names)}" for fault, names in faults.items() if names]
    if told:
        raise InputError(f"its weights do not fit its configuration: they {'; they '.join(told)}")


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - N_NAMED} more" if len(names) > N_NAMED else ""
    return ", ".join(names[:N_NAMED]) + more


def check_downloaded(name: str, hub_id: str) -> None:
    """Compare downloaded weights with their hash: the hub's cache names such a file by its SHA-256.

    Raises
    ------
    InputError : a file is not what its name says.
    """
    cached = try_to_load_from_cache(hub_id, "config.json")
    for file in sorted(Path(cached).parent.glob("*.safetensors")) if isinstance(cached, str) else ():
        blob = file.resolve()
        if re.fullmatch("[0-9a-f]{64}", blob.name) and remembered_sha256(blob) != blob.name:
            raise InputError(
                f"model {name!r}: the downloaded file {blob} is damaged; delete it and run again"
            )
