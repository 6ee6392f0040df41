"""What determines a condition's tokens, with names resolved to what they mean on this machine."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from kvhelpers import own
from kvhelpers.experiment.condition import GRID_KEYS, Condition
from kvhelpers.experiment.plain import plain_hash
from kvhelpers.models.source import model_source
from kvhelpers.tasks.load import data_fingerprint
from kvhelpers.tasks.prompts import read_template, text_hash

SCHEMA_VERSION = 5  # of result files and of the records in checkpoints
# parameters that older results do not name: there they have these values
LATER = {
    "question_position": "last",
    "compress": "prompt",
    "examples_seed": None,
    "task_kwargs": {},
    "template_date": "2025-01-01",
    "chat_template_kwargs": {},
    "think_tags": None,
    "shuffle": True,
    "stop_strings": None,
    "cache_type_k": "none",
    "cache_type_v": "none",
    "cache_kwargs": {},
}
FILES = ("template_sha256", "examples")  # named only where there are such files
# how and where a condition is run; of files their contents count
NOT_IN_IDENTITY = {"experiment", "batch_size", "device", "data_file", "examples_file", "prompt_template"}


def identity(condition: Condition) -> dict[str, Any]:
    """What determines the tokens: all but how and where the condition is run. ``attn`` is ``sdpa`` also where
    it is left to the model, which determines it; what was used stands in the provenance.

    Raises
    ------
    InputError : a model, data file or device that is not there.
    """
    source = model_source(condition.model)
    data = data_fingerprint(condition.task, condition.data_file)
    from kvhelpers.models.device import resolve_device, resolve_dtype  # needs torch

    template, examples = condition.prompt_template, condition.examples_file
    hashes = (
        template and text_hash(read_template(template)),
        examples and data_fingerprint(condition.task, examples),
    )
    files = dict(zip(FILES, hashes, strict=True))
    usual = {key for key, value in LATER.items() if getattr(condition, key) == value}
    return condition.model_dump(exclude=NOT_IN_IDENTITY | usual) | {
        **{name: importlib.metadata.version(name) for name in ("transformers", "kvpress")},
        "press": own.short(condition.press),
        "task": own.short(condition.task),
        "model_source": source,
        "data": data,
        **{name: value for name, value in files.items() if value is not None},
        "dtype": resolve_dtype(condition.dtype, resolve_device(condition.device)),
        "attn": condition.prefill_attention,
    }


def identity_hash(condition: Condition) -> str:
    """Hex SHA-256 of `identity` and of the shape in which results are kept."""
    return hash_of(identity(condition))


def hash_of(whole: dict[str, Any]) -> str:
    """The hash of an identity that is already there."""
    return plain_hash(whole | {"schema_version": SCHEMA_VERSION})


def shared_identity(whole: dict[str, Any]) -> dict[str, Any]:
    """The part of an identity that all conditions of an experiment have in common: all but the press
    and how the prompts are made.
    """
    return {key: value for key, value in whole.items() if key not in (*GRID_KEYS, "attn")}


def check_here(condition: Condition) -> Condition:
    """The condition, if this machine can run it.

    Raises
    ------
    InputError : one sentence about a device that is not there, or a press that cannot be built with its
        fields.
    """
    identity(condition)
    condition.press_spec.check_build()
    return condition
