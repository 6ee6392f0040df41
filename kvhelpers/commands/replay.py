"""Feed an experiment's finished runs to their caches again and keep what their inside showed
(`generation.inner_signals`), up to each run's event. What is there already is not done again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from tqdm import tqdm

from kvhelpers.errors import InputError, unknown_name
from kvhelpers.experiment.condition import Condition
from kvhelpers.experiment.grid import finished_results
from kvhelpers.experiment.identity import check_here
from kvhelpers.experiment.results import ConditionResult
from kvhelpers.experiment.run import load_for, press_seed, prompts_of, refuse_other_prompts
from kvhelpers.frames import run_signals
from kvhelpers.generation.inner_signals import against_full, attending, course, evicted, inside
from kvhelpers.generation.replay import Replayer
from kvhelpers.generation.requests import Request
from kvhelpers.generation.token_signals import expectation
from kvhelpers.hazard.events import event_of
from kvhelpers.models.load import LanguageModel
from kvhelpers.paths import find_results, relative, replay_path, write_atomic
from kvhelpers.records import Record
from kvhelpers.tasks.prompts import PROMPT, Prompt


def replay(experiment: str, labels: Sequence[str] = ()) -> int:
    """Replay the runs of an experiment's finished conditions, or of those with these labels; return how many
    were replayed now.

    Raises
    ------
    InputError : no finished condition, a label that none has, a prompt that has other tokens than it had, or
        what `replay.Replayer` refuses.
    """
    results = finished_results(experiment, find_results(experiment))
    known = [result.label for result in results]
    for label in labels:
        if label not in known:
            raise unknown_name("condition", label, known)
    results = [result for result in results if not labels or result.label in labels]
    runs = [run for result in results for run in _missing(result)]
    setting, count = None, 0
    for result, record, ids in tqdm(runs, desc=f"replay {experiment}", unit="run"):
        if setting is None or not setting.serves(result.condition):
            setting = _Setting(result.condition, setting)
        refuse_other_prompts([record], setting.prompts, relative(result.path))
        _write(setting, result, record, ids)
        count += 1
    return count


# what the prompts depend on
PROMPTS = {
    *("task", "task_kwargs", "data_file", "n_prompts", "seed", "n_fewshot", "examples_seed"),
    *("multiturn", "question_position", "template_date", "chat_template_kwargs"),
}


class _Setting:
    """A model and the prompts of the conditions that it serves."""

    def __init__(self, condition: Condition, before: _Setting | None):
        self.key = _key(condition)
        same = before is not None and before.key[:2] == self.key[:2]
        self.lm: LanguageModel = before.lm if same else load_for(check_here(condition))
        self.prompts: list[Prompt] = prompts_of(condition, self.lm)
        self.replayer = Replayer(self.lm, [prompt.token_ids for prompt in self.prompts])

    def serves(self, condition: Condition) -> bool:
        """Whether the condition has this model and these prompts."""
        return _key(condition) == self.key


def _key(condition: Condition) -> tuple:
    return condition.model, condition.asked_attention, str(condition.model_dump(include=PROMPTS))


def _missing(result: ConditionResult) -> Iterator[tuple[ConditionResult, Record, list[int]]]:
    """The condition's runs that are not replayed, with their tokens before the event."""
    if result.condition.is_quantized:
        raise InputError(
            f"condition {result.label!r} holds its cache in {result.condition.cache}; only runs whose cache "
            "is held in full can be replayed"
        )
    if result.condition.repetition_penalty != 1.0:
        raise InputError(f"condition {result.label!r} has a repetition penalty; its runs cannot be replayed")
    if result.condition.compress != PROMPT:
        raise InputError(
            f"condition {result.label!r} has compress {result.condition.compress!r}; runs whose question is "
            "fed to a compressed cache cannot be replayed"
        )
    for record, tokens in run_signals(result, ["token_id", "char_end"]):
        _, time = event_of(record, tokens["char_end"].to_numpy())
        path = replay_path(result.condition.experiment, result.label, record.prompt_index)
        if time > 1 and not path.is_file():
            yield result, record, tokens["token_id"].tolist()[:time]


def _write(setting: _Setting, result: ConditionResult, record: Record, ids: list[int]) -> None:
    prompt, condition = setting.prompts[record.prompt_index], result.condition
    n_tokens = len(prompt.token_ids)
    press = condition.press_spec.for_prompt(n_tokens)
    request = Request(prompt.token_ids, press, press_seed(condition.seed, prompt.id))
    start = setting.replayer.prefill(request)
    gone = evicted(setting.replayer, start)
    run = setting.replayer.feed(start.compressed, ids, n_tokens, watch=True)
    full = setting.replayer.feed(start.full, ids, n_tokens, watch=False)
    parts = (
        course(torch.cat([start.logits[None], run.logits])),
        inside(run),
        attending(run, start),
        against_full(full.logits, run.logits, ids),
    )
    logs = run.logits.log_softmax(-1)
    columns = {
        "signals": np.concatenate(parts, axis=1).astype(np.float32),
        "evicted": gone,
        "entropy": -expectation(logs, logs).numpy(),
        "middle": run.hidden[setting.replayer.middle].to(torch.float16).numpy(),
        "condition_hash": np.array(result.condition_hash),
    }
    path = replay_path(condition.experiment, result.label, record.prompt_index)
    write_atomic(path, lambda temporary: np.savez(temporary, **columns))
