"""The canary of runs that were made without one: their first tokens again, beside the full cache."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from kvhelpers.experiment.results import ConditionResult
from kvhelpers.experiment.run import generate_prompts, prompts_of, rows_together
from kvhelpers.guard.definition import Source
from kvhelpers.models.load import LanguageModel
from kvhelpers.paths import write_atomic
from kvhelpers.presses.registry import NONE
from kvhelpers.records import FIRST_COMPRESSED_TOKEN


def canary_values(
    source: Source, label: str, tokens: int, n_prompts: int, folder: Path, load
) -> dict[int, tuple[float, ...]]:
    """The divergence (nats) of a condition's first compressed tokens, by prompt index; those of shorter runs
    are fewer. ``load`` gives the model where they have to be measured.
    """
    result = source.every[label]
    stored = _stored(result, tokens, n_prompts)
    if stored is not None:
        return stored
    path = folder / f"canary-{result.condition_hash[:16]}-{tokens}-{n_prompts}.json"
    if not path.exists():
        measured = _measured(result, tokens, n_prompts, load())
        text = json.dumps({str(index): values for index, values in measured.items()})
        write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    values: Mapping[str, list[float]] = json.loads(path.read_text(encoding="utf-8"))
    return {int(index): tuple(some) for index, some in values.items()}


def has_canary(result: ConditionResult, tokens: int) -> bool:
    """Whether a compressed condition's runs hold a canary of so many tokens."""
    return result.condition.press != NONE and result.condition.canary_tokens >= tokens


def _stored(result: ConditionResult, tokens: int, n_prompts: int) -> dict[int, tuple[float, ...]] | None:
    """What the runs hold; None if they have no canary of so many tokens."""
    if not has_canary(result, tokens):
        return None
    table = result.signals(["prompt_index", "step", "canary_kl"])
    first = FIRST_COMPRESSED_TOKEN
    table = table[(table["step"] >= first) & (table["step"] < first + tokens)]
    table = table[table["prompt_index"] < n_prompts].sort_values(["prompt_index", "step"])
    return {index: tuple(part["canary_kl"].tolist()) for index, part in table.groupby("prompt_index")}


def _measured(
    result: ConditionResult, tokens: int, n_prompts: int, lm: LanguageModel
) -> dict[int, tuple[float, ...]]:
    first = FIRST_COMPRESSED_TOKEN
    changes = {"max_new_tokens": tokens + first, "canary_tokens": tokens}
    condition = result.condition.model_copy(update=changes)
    lm = lm.attending(condition.asked_attention)
    prompts = prompts_of(condition, lm)[:n_prompts]
    runs = generate_prompts(condition, lm, prompts, rows_together(condition, lm, prompts))
    with tqdm(total=len(prompts), desc=f"canary of {result.label}", unit="prompt") as bar:
        values = {}
        for run in runs:
            values[run.index] = tuple(np.asarray(run.signals["canary_kl"])[first:].astype(float).tolist())
            bar.update()
    return values
