"""GGUF files as models: checked by hash, dequantized once, and kept as safetensors in the cache folder.

A conversion notes the hash of each of its files, so that one which was damaged or left incomplete is made
again. What a file says reaches the model, or the file is refused by its name: `gguf_meaning`,
`gguf_tokenizer`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from kvhelpers.errors import InputError
from kvhelpers.models.gguf_header import check_header
from kvhelpers.models.gguf_meaning import (
    ROPE_FACTORS,
    check_tensors,
    check_values,
    own_values,
    rope_parameters,
)
from kvhelpers.models.gguf_tokenizer import build_tokenizer, check_tokenizer, end_ids
from kvhelpers.models.source import remembered_sha256, sha256_of
from kvhelpers.models.weights import check_complete, quiet
from kvhelpers.paths import cache_dir, flush, temporary_beside

HASHES = "sha256.json"  # in a conversion's folder: the hash of the GGUF file, and of each other file
RULES = 2  # of what is read and what is refused: a conversion made by others is made again
LONGEST_NAME = 100


def converted(gguf: Path, sha256: str) -> Path:
    """Folder with the safetensors, configuration and tokenizer made from a GGUF file; made on first use.

    Parameters
    ----------
    gguf : the file.
    sha256 : what its hash must be.

    Raises
    ------
    InputError : the file's hash is not ``sha256``, the file cannot be read, or the cache folder cannot be
        written to.
    """
    _check_hash(gguf, sha256, remembered_sha256(gguf))
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", gguf.stem)[:LONGEST_NAME]
    folder = cache_dir() / f"{stem}-{sha256[:12]}"
    try:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file, where the conversion of {gguf} would lie; delete it")
        if not _is_whole(folder, sha256):
            _make(gguf, sha256, folder)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"the cache folder {cache_dir()} cannot take the conversion of {gguf.name} ({error}); "
            "let KVHELPERS_CACHE name a folder that can be written to"
        ) from error
    return folder


def _check_hash(gguf: Path, expected: str, actual: str) -> None:
    if actual != expected:
        raise InputError(
            f"model file {gguf} has sha256 {actual}; expected {expected}: reinstall the wheel it comes from, "
            "or run again if it was being written"
        )


def _is_whole(folder: Path, sha256: str) -> bool:
    """Whether a conversion's files are those that were made, with what was in them then."""
    try:
        noted = json.loads((folder / HASHES).read_text(encoding="utf-8"))
        return noted == _hashes(folder, sha256, remembered_sha256)
    except (OSError, ValueError):
        return False


def _hashes(folder: Path, sha256: str, hash_of: Callable[[Path], str]) -> dict:
    files = (path for path in folder.iterdir() if path.name != HASHES and not path.name.startswith("."))
    return {"gguf": sha256, "rules": RULES, "files": {path.name: hash_of(path) for path in files}}


def _make(gguf: Path, sha256: str, folder: Path) -> None:
    temporary = temporary_beside(folder)
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process that had this one's number
    try:
        temporary.mkdir()
        _convert(gguf, temporary)
        _check_hash(gguf, sha256, sha256_of(gguf))  # it may have changed since
        (temporary / HASHES).write_text(
            json.dumps(_hashes(temporary, sha256, sha256_of), indent=1), encoding="utf-8"
        )
        for file in temporary.iterdir():
            flush(file)
        if not _is_whole(folder, sha256):  # another process may have been first
            shutil.rmtree(folder, ignore_errors=True)
            os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _convert(gguf: Path, folder: Path) -> None:
    try:
        check_header(gguf)
        reader = GGUFReader(gguf)
        metadata = {key: field.contents() for key, field in reader.fields.items()}
        _check(gguf, reader, metadata)
        print(f"converting {gguf.name} to safetensors, once (about 20 s) …", file=sys.stderr)
        model = _model(gguf)
        _finish(model, reader, metadata)
        tokenizer = build_tokenizer(metadata, model.config.max_position_embeddings)
    except Exception as error:  # files of anybody's making may be wrong in any way
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise InputError(f"model file {gguf} cannot be read as GGUF: {reason}") from error
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


def _check(gguf: Path, reader: GGUFReader, metadata: Mapping[str, Any]) -> None:
    """Compare the model that the metadata describe with the tensors, before memory is taken for it, and look
    for anything that would be left out.

    What metadata leave out, transformers takes from a large default model.
    """
    for key in ("general.architecture", "tokenizer.ggml.tokens", "tokenizer.ggml.model"):
        if key not in metadata:
            raise InputError(f"its metadata lack {key}")
    check_tokenizer(metadata)
    values, architecture = own_values(metadata), metadata["general.architecture"]
    names = [tensor.name for tensor in reader.tensors]
    n_blocks = len({name.split(".")[1] for name in names if name.startswith("blk.")})
    said = metadata.get(f"{architecture}.block_count")
    if said != n_blocks:
        raise InputError(f"its block_count is {said}, but its tensors are of {n_blocks} blocks")
    config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    check_values(values, config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    described = sum(one.numel() for one in model.parameters())
    held = sum(int(tensor.n_elements) for tensor in reader.tensors)
    if described > held:
        raise InputError(f"its metadata describe a model of {described} weights, but it holds {held}")
    check_tensors(names, architecture, model)


def _model(gguf: Path) -> PreTrainedModel:
    with quiet():
        model, info = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, ignore_mismatched_sizes=True, output_loading_info=True
        )
    check_complete(info)
    return model


def _finish(model: PreTrainedModel, reader: GGUFReader, metadata: Mapping[str, Any]) -> None:
    """Give a model's configuration what transformers does not read: rotary factors, more end tokens."""
    factors = [tensor.data for tensor in reader.tensors if tensor.name == ROPE_FACTORS]
    if factors:
        model.config.rope_parameters = rope_parameters(factors[0], model.config)
    model.generation_config.eos_token_id = end_ids(metadata)
