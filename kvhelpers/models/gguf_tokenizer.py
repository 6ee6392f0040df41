"""The tokenizer that a GGUF file describes: byte-level BPE, with the pre-tokenizer that the file names.

transformers (5.2) chooses the pre-tokenizer by the model's architecture, whatever the file says, knows three
special tokens of Qwen's, and gives ``<|im_start|>`` as end token in SmolLM2's family.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
)
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from kvhelpers.errors import InputError, shown

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # types of tokens
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
OTHERS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# by name, what splits a text: their makers' tokenizer.json
GPT2 = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
SPLITS = {
    "gpt-2": GPT2,
    "smollm": [pre_tokenizers.Digits(individual_digits=True), *GPT2],
    **{
        name: [
            pre_tokenizers.Split(Regex(CONTRACTIONS + digits + OTHERS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
        for name, digits in (("qwen2", r"\p{N}"), ("llama-bpe", r"\p{N}{1,3}"))
    },
}
PREFIX = "tokenizer.ggml."
SILENT = {  # the tokens that a chat template does not write are not added, and no text is filled in
    *(f"{PREFIX}{name}" for name in ("scores", "add_bos_token", "add_eos_token", "add_sep_token")),
    *(f"{PREFIX}{name}_token_id" for name in ("seperator", "mask", "prefix", "suffix", "middle")),
    *(f"{PREFIX}fim_{name}_token_id" for name in ("pre", "suf", "mid", "pad", "rep", "sep")),
    "tokenizer.chat_templates",
}
ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
ENDS = ("eos", "eot", "eom")  # roles of tokens that end an answer
READ = {
    *(f"{PREFIX}{name}" for name in ("model", "pre", "tokens", "token_type", "merges", "add_space_prefix")),
    *(f"{PREFIX}{name}_token_id" for name in (*ROLES.values(), *ENDS)),
    "tokenizer.chat_template",
}


def check_tokenizer(metadata: Mapping[str, Any]) -> None:
    """Check that a file's tokenizer is one that `build_tokenizer` builds, from its metadata by key.

    Raises
    ------
    InputError : another model, pre-tokenizer or kind of tokens, or a key that is not read.
    """
    for key in metadata:
        named = key.startswith("tokenizer.chat_template.")  # for tools and the like: the usual one is taken
        if key.startswith("tokenizer.") and key not in READ | SILENT and not named:
            raise InputError(f"its metadata have {key}, which is not read, so that it would be left out")
    for name in ("tokens", "token_type", "merges", "pre"):
        if f"{PREFIX}{name}" not in metadata:
            raise InputError(f"its metadata lack {PREFIX}{name}")
    for name, allowed in (("model", ("gpt2",)), ("pre", SPLITS), ("add_space_prefix", (False,))):
        value = metadata.get(f"{PREFIX}{name}", False)
        if value not in allowed:
            raise InputError(
                f"its {PREFIX}{name} {shown(value)} is not supported "
                f"(allowed: {', '.join(map(str, allowed))})"
            )
    odd = set(metadata[f"{PREFIX}token_type"]) - {NORMAL, CONTROL, USER_DEFINED, UNUSED}
    if odd:
        raise InputError(f"its {PREFIX}token_type {min(odd)} is not supported in byte-level BPE")


def build_tokenizer(metadata: Mapping[str, Any], context_length: int) -> PreTrainedTokenizerBase:
    """The tokenizer of metadata that `check_tokenizer` finds no fault with."""
    names, name = metadata[f"{PREFIX}tokens"], metadata[f"{PREFIX}pre"]
    merges = [tuple(merge.split(" ", 1)) for merge in metadata[f"{PREFIX}merges"]]
    vocabulary = {token: index for index, token in enumerate(names)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=name == "llama-bpe"))
    kinds = list(zip(names, metadata[f"{PREFIX}token_type"], strict=True))
    for kind in (CONTROL, USER_DEFINED):
        special = kind == CONTROL
        added = [AddedToken(token, special=special, normalized=False) for token, one in kinds if one == kind]
        (backend.add_special_tokens if special else backend.add_tokens)(added)
    if name == "qwen2":
        backend.normalizer = normalizers.NFC()
    splits = SPLITS[name]
    backend.pre_tokenizer = splits[0] if name == "gpt-2" else pre_tokenizers.Sequence(splits)
    backend.decoder = decoders.ByteLevel()
    ids = {role: metadata.get(f"{PREFIX}{key}_token_id") for role, key in ROLES.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=metadata.get("tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
        model_max_length=context_length,
        **{f"{role}_token": names[index] for role, index in ids.items() if index is not None},
    )


def end_ids(metadata: Mapping[str, Any]) -> int | list[int] | None:
    """The ids of the tokens that the file says end an answer: one, several, or None."""
    given = (metadata.get(f"{PREFIX}{name}_token_id") for name in ENDS)
    ids = list(dict.fromkeys(index for index in given if index is not None))
    return ids if len(ids) > 1 else ids[0] if ids else None
