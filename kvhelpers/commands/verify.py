"""Check an experiment's files against what they say of themselves, without running a model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from transformers import PreTrainedTokenizerBase

from kvhelpers.commands.prompts import PromptsAgain
from kvhelpers.commands.rescore import JUDGED, rescored
from kvhelpers.errors import InputError
from kvhelpers.experiment.grid import find_experiment
from kvhelpers.experiment.identity import hash_of
from kvhelpers.experiment.results import ConditionResult, read_result, refuse_mixed, result_paths
from kvhelpers.experiment.run import problems_of, refuse_other_prompts
from kvhelpers.paths import relative
from kvhelpers.scoring.summary import summarize
from kvhelpers.tasks.load import texts_may_be_shared

NAMED = 5


@dataclass
class Verification:
    """What was checked, and what does not hold: sentences, each with its file. ``unread`` and ``unasked``
    count conditions whose texts could not be compared with their tokens, and those whose prompts could not be
    compared with the hashes of theirs; ``unchecked`` those that ran before models were checked against their
    own passes (`generation.self_check`).
    """

    conditions: int = 0
    runs: int = 0
    unread: int = 0
    unasked: int = 0
    unchecked: int = 0
    faults: list[str] = field(default_factory=list)


def verify(experiment: str, root: Path | None = None) -> Verification:
    """Check all finished conditions of an experiment below ``root``.

    Raises
    ------
    InputError : it has none.
    """
    paths = result_paths(experiment, root)
    if not paths:
        raise InputError(f"experiment {experiment!r} has no finished condition to verify")
    done, again, first = Verification(), PromptsAgain(), None
    try:
        find_experiment(experiment, root)
    except InputError as error:
        done.faults.append(str(error))
    for path in paths:
        try:
            result = read_result(path)
            first = first or result
            refuse_mixed(first, result)
            faults = list(_faults(result, again))
            asked = _about_the_prompts_tokens(result, again)
            faults += asked or []
        except InputError as error:
            faults = [str(error)]
        else:
            done.runs += len(result.records)
            done.unread += again.tokenizer(result) is None
            done.unasked += asked is None
            done.unchecked += result.provenance.self_check is None
        done.conditions += 1
        name = relative(path)
        done.faults += [fault if name in fault else f"{name}: {fault}" for fault in faults]
    return done


def _faults(result: ConditionResult, again: PromptsAgain) -> Iterator[str]:
    yield from _about_the_condition(result)
    yield from _about_the_prompts(result)
    signals = result.signals(["step", *JUDGED])
    by_prompt = dict(tuple(signals.groupby("prompt_index")))
    yield from _about_the_tokens(result, by_prompt)
    if (tokenizer := again.tokenizer(result)) is not None:
        yield from _about_the_texts(result, by_prompt, tokenizer)
    if rescored(result, signals) != result.records:
        yield "answers or failures of some runs are not what today's rules say; see the command rescore"
    for name, stored, computed in _differences(result, signals):
        yield f"summary.{name} is {stored}, and {computed} computed again"


def _about_the_condition(result: ConditionResult) -> Iterator[str]:
    condition = result.condition
    if result.label != condition.label():
        yield f"label {result.label!r} is not the condition's, {condition.label()!r}"
    for key, value in condition.model_dump().items():
        if key in result.identity and key not in ("dtype", "attn") and result.identity[key] != value:
            yield f"{key} {value!r} is {result.identity[key]!r} in the identity"
    if result.condition_hash != hash_of(result.identity):
        yield "condition_hash is not that of the identity"


def _about_the_prompts(result: ConditionResult) -> Iterator[str]:
    if len({record.prompt_id for record in result.records}) < len(result.records):
        yield "two records are of the same prompt"
    if texts_may_be_shared(result.condition.task):
        condition = result.condition
        problems, _ = problems_of(condition)
        for record, problem in zip(result.records, problems, strict=True):
            told = (record.prompt_id, record.question, record.reference)
            if told != (problem.id, problem.question, problem.reference):
                yield f"prompt {record.prompt_index} is not the task's, {problem.id}"


def _about_the_prompts_tokens(result: ConditionResult, again: PromptsAgain) -> list[str] | None:
    """What is wrong with the prompts' tokens; None where they cannot be compared with their hashes."""
    if all(record.prompt_hash is None for record in result.records):
        return None
    try:
        prompts = again.of(result)
        if prompts is not None:
            refuse_other_prompts(result.records, prompts, relative(result.path))
    except InputError as error:
        return [str(error)]
    return None if prompts is None else []


def _about_the_tokens(result: ConditionResult, by_prompt: dict[int, pd.DataFrame]) -> Iterator[str]:
    for record in result.records:
        steps = by_prompt[record.prompt_index]["step"].tolist() if record.prompt_index in by_prompt else []
        if steps != list(range(record.n_tokens)):
            yield f"prompt {record.prompt_id} has {record.n_tokens} tokens, its signals have {len(steps)}"
        if record.cache is not None and not 0 <= record.cache.kept_tokens <= record.cache.prompt_tokens:
            kept = f"{record.cache.kept_tokens} of {record.cache.prompt_tokens}"
            yield f"prompt {record.prompt_id} keeps {kept} tokens"
    if strangers := set(by_prompt) - {record.prompt_index for record in result.records}:
        yield f"signals of prompts {_some(sorted(strangers))} have no record"


def _about_the_texts(
    result: ConditionResult, by_prompt: dict[int, pd.DataFrame], tokenizer: PreTrainedTokenizerBase
) -> Iterator[str]:
    differ = []
    for record in result.records:
        if record.prompt_index in by_prompt:
            ids = by_prompt[record.prompt_index]["token_id"].tolist()
            if min(ids) < 0 or record.text not in _texts(tokenizer, ids):
                differ.append(record.prompt_id)
    if differ:
        yield f"text of {_some(differ)} is not what its tokens say"


def _texts(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> set[str]:
    """What an answer's tokens say; the end token is no text."""
    return {tokenizer.decode(ids), tokenizer.decode(ids[:-1])}


def _differences(result: ConditionResult, signals: pd.DataFrame) -> Iterator[tuple[str, object, object]]:
    """Parts of the summary that do not follow from the records and signals."""
    stored, computed = result.summary.model_dump(), summarize(result.records, signals).model_dump()
    for name, value in computed.items():
        same = value == stored[name]
        if isinstance(value, float) and isinstance(stored[name], float):
            same = math.isclose(value, stored[name], rel_tol=1e-5)
        if not same:
            yield name, stored[name], value


def _some(values: list) -> str:
    shown = ", ".join(map(str, values[:NAMED])) or "none"
    return shown + (f" and {len(values) - NAMED} more" if len(values) > NAMED else "")
