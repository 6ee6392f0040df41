"""GGUF files as models: checked by hash, dequantized once, and kept as safetensors in the cache folder.

A conversion notes the hash of each of its files, so that one which was damaged or left incomplete is made
again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from gguf import GGUFReader
from safetensors import SafetensorError
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from kvhelpers.errors import InputError
from kvhelpers.models.gguf_header import check_header
from kvhelpers.models.source import remembered_sha256, sha256_of
from kvhelpers.models.weights import check_complete, quiet
from kvhelpers.paths import cache_dir, flush, temporary_beside

HASHES = "sha256.json"  # in a conversion's folder: the hash of the GGUF file, and of each other file
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
    return {"gguf": sha256, "files": {path.name: hash_of(path) for path in files}}


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
        _check_size(gguf)
        print(f"converting {gguf.name} to safetensors, once (about 20 s) …", file=sys.stderr)
        model, tokenizer = _model(gguf), _tokenizer(gguf)
    except Exception as error:  # files of anybody's making may be wrong in any way
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise InputError(f"model file {gguf} cannot be read as GGUF: {reason}") from error
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


def _check_size(gguf: Path) -> None:
    """Compare the model that the metadata describe with the tensors, before memory is taken for it.

    What metadata leave out, transformers takes from a large default model.
    """
    reader = GGUFReader(gguf)
    for key in ("general.architecture", "tokenizer.ggml.tokens", "tokenizer.ggml.model"):
        if key not in reader.fields:
            raise InputError(f"its metadata lack {key}")
    blocks = reader.fields.get(f"{reader.fields['general.architecture'].contents()}.block_count")
    names = [tensor.name.split(".") for tensor in reader.tensors]
    n_blocks = len({parts[1] for parts in names if parts[0] == "blk"})
    said = blocks and blocks.contents()
    if said != n_blocks:
        raise InputError(f"its block_count is {said}, but its tensors are of {n_blocks} blocks")
    config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    with torch.device("meta"):
        described = sum(one.numel() for one in AutoModelForCausalLM.from_config(config).parameters())
    held = sum(int(tensor.n_elements) for tensor in reader.tensors)
    if described > held:
        raise InputError(f"its metadata describe a model of {described} weights, but it holds {held}")


def _model(gguf: Path) -> PreTrainedModel:
    with quiet():
        model, info = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, ignore_mismatched_sizes=True, output_loading_info=True
        )
    check_complete(info)
    return model


def _tokenizer(gguf: Path) -> PreTrainedTokenizerBase:
    """The tokenizer with the special tokens that the GGUF file names.

    transformers (5.2) builds the right vocabulary from these files but gives ``<|im_start|>`` as end token
    and no padding token for this family; the file's own metadata are right, so the fast tokenizer is wrapped
    again with them.
    """
    fields = GGUFReader(gguf).fields
    loaded = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if "tokenizer.ggml.tokens" not in fields or "tokenizer.ggml.model" not in fields:
        return loaded
    tokens = fields["tokenizer.ggml.tokens"].contents
    special = {}
    for role, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        field = fields.get(f"tokenizer.ggml.{key}_token_id")
        if field is not None:
            special[f"{role}_token"] = tokens(int(field.contents()))
    if (
        fields["tokenizer.ggml.model"].contents() != "gpt2"
        or fields["tokenizer.ggml.pre"].contents() != "smollm"
    ):
        for name, token in special.items():
            setattr(loaded, name, token)
        return loaded
    backend = _byte_level_bpe(fields, tokens)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=loaded.chat_template,
        clean_up_tokenization_spaces=False,
        model_max_length=int(fields["llama.context_length"].contents()),
        **special,
    )


def _byte_level_bpe(fields, tokens) -> Tokenizer:
    names = tokens()
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"].contents()]
    backend = Tokenizer(models.BPE(vocab={name: index for index, name in enumerate(names)}, merges=merges))
    control = 3  # the GGUF token type of control tokens
    kinds = fields["tokenizer.ggml.token_type"].contents()
    backend.add_special_tokens(
        [
            AddedToken(name, special=True, normalized=False)
            for name, kind in zip(names, kinds, strict=True)
            if kind == control
        ]
    )
    return backend
