"""GGUF files as models: checked by hash, dequantized once, and kept as safetensors in the cache folder."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from kvhelpers.errors import InputError
from kvhelpers.models.source import sha256_of
from kvhelpers.paths import cache_dir, flush, temporary_beside


def converted(gguf: Path, sha256: str | None = None) -> Path:
    """Folder with the safetensors, configuration and tokenizer made from a GGUF file; made on first use.

    Parameters
    ----------
    gguf : the file.
    sha256 : what its hash must be; None takes whatever it is.

    Raises
    ------
    InputError : the file's hash is not ``sha256``, or transformers cannot read the file.
    """
    actual = sha256_of(gguf)
    if sha256 is not None and actual != sha256:
        raise InputError(f"model file {gguf} has sha256 {actual}; expected {sha256}: reinstall the wheel")
    folder = cache_dir() / f"{gguf.stem}-{actual[:12]}"
    if not folder.is_dir():
        temporary = temporary_beside(folder)
        try:
            _convert(gguf, temporary)
            for file in temporary.iterdir():
                flush(file)
            if not folder.is_dir():  # another process may have been first
                os.rename(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    print(f"converting {gguf.name} to safetensors, once (about 20 s) …", file=sys.stderr)
    try:
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
        tokenizer = _tokenizer(gguf)
    except (ValueError, KeyError, OSError, NotImplementedError) as error:
        raise InputError(f"model file {gguf} cannot be read as GGUF: {error}") from error
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


def _tokenizer(gguf: Path):
    """The tokenizer with the special tokens that the GGUF file names.

    transformers (5.2) builds the right vocabulary from these files but gives ``<|im_start|>`` as end token
    and no padding token for this family; the file's own metadata are right, so the fast tokenizer is wrapped
    again with them.
    """
    from gguf import GGUFReader
    from tokenizers import decoders, pre_tokenizers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

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


def _byte_level_bpe(fields, tokens):
    from tokenizers import AddedToken, Tokenizer, models

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
