"""Tasks: problems with worked solutions, and the prompts made of them."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from kvhelpers.answers import STRICT, clean
from kvhelpers.errors import InputError, unknown_name
from kvhelpers.onestep import DISTINCT, onestep_problems
from kvhelpers.paths import REPOSITORY, user_path

OWN_TASKS = ("onestep",)  # whose texts are generated here
GSM8K_HUB = ("openai/gsm8k", "main")
STOP_STRINGS = ("Question:", "</s>", "<|im_end|>")  # lm-evaluation-harness's for GSM8K
ASKED = "Question: {}\nAnswer:"  # the same


@dataclass(frozen=True)
class Problem:
    """A question, its worked solution ending in ``#### number``, and the number.

    ``id`` points at the original row; ``asked`` is the question as the user's chat message says it.
    """

    id: str
    question: str
    solution: str
    reference: str
    asked: str


@dataclass(frozen=True)
class Prompt:
    """A problem as the model sees it: chat messages, and their token ids with the assistant's turn opened."""

    id: str
    question: str
    reference: str
    messages: list[dict[str, str]]
    token_ids: list[int]


def load_problems(
    task: str, n_prompts: int, n_fewshot: int, seed: int, data_file: str | None = None
) -> tuple[list[Problem], list[Problem]]:
    """Choose ``n_prompts`` problems and ``n_fewshot`` worked examples, disjoint, by seed.

    Parameters
    ----------
    task : ``onestep`` (generated here) or ``gsm8k`` (Cobbe et al. 2021, https://arxiv.org/abs/2110.14168).
    data_file : for gsm8k, a local JSONL with ``question`` and ``answer``, its path as seen from the repository or from here;
        examples then come from it too. None loads ``openai/gsm8k`` by `datasets`, problems from its test split and examples
        from its train split.

    Raises
    ------
    InputError : unknown task, unreadable file, a row without question or answer, fewer rows than asked for.
    """
    if task not in TASKS:
        raise unknown_name("task", task, TASKS)
    if n_prompts < 1 or n_fewshot < 0:
        raise InputError(f"n_prompts {n_prompts} must be at least 1 and n_fewshot {n_fewshot} at least 0")
    if task != "gsm8k" and data_file:
        raise InputError(f"data_file {data_file!r} is only for task 'gsm8k', not for {task!r}")
    return TASKS[task](n_prompts, n_fewshot, seed, data_file)


def data_fingerprint(task: str, data_file: str | None) -> str:
    """What identifies a task's data: the local file's SHA-256, or the data set's name."""
    if data_file:
        return f"sha256:{hashlib.sha256(_read(data_file)).hexdigest()}"
    return f"hub:{GSM8K_HUB[0]}" if task == "gsm8k" else "generated"


def build_prompts(
    problems: list[Problem], examples: list[Problem], tokenizer: PreTrainedTokenizerBase, multiturn: bool = True
) -> list[Prompt]:
    """Make chat prompts.

    ``multiturn`` gives each worked example a user and an assistant message (lm-evaluation-harness's
    ``--fewshot_as_multiturn --apply_chat_template``); otherwise everything is one user message.
    """
    prompts = []
    for problem in problems:
        if multiturn:
            shots = [
                message
                for shot in examples
                for message in ({"role": "user", "content": shot.asked}, {"role": "assistant", "content": shot.solution})
            ]
            messages = [*shots, {"role": "user", "content": problem.asked}]
        else:
            shots = [f"{ASKED.format(shot.question)} {shot.solution}" for shot in examples]
            messages = [{"role": "user", "content": "\n\n".join([*shots, ASKED.format(problem.question)])}]
        token_ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        prompts.append(Prompt(problem.id, problem.question, problem.reference, messages, token_ids))
    return prompts


def _onestep(n_prompts, n_fewshot, seed, _) -> tuple[list[Problem], list[Problem]]:
    if n_fewshot + n_prompts > DISTINCT:
        raise InputError(f"n_prompts and n_fewshot ask for {n_fewshot + n_prompts} problems, but onestep has {DISTINCT}")
    made = [
        Problem(f"onestep/{seed}/{index}", question, solution, answer, asked=question)
        for index, (question, solution, answer) in enumerate(onestep_problems(n_fewshot + n_prompts, seed))
    ]
    return made[n_fewshot:], made[:n_fewshot]


def _gsm8k(n_prompts, n_fewshot, seed, data_file) -> tuple[list[Problem], list[Problem]]:
    if data_file:
        rows = _gsm8k_file(data_file)
        chosen = _sample(rows, n_fewshot + n_prompts, seed, data_file)
        return chosen[n_fewshot:], chosen[:n_fewshot]
    return (
        _sample(_gsm8k_hub("test"), n_prompts, seed, GSM8K_HUB[0]),
        _sample(_gsm8k_hub("train"), n_fewshot, seed, GSM8K_HUB[0]),
    )


TASKS: dict[str, Callable] = {"onestep": _onestep, "gsm8k": _gsm8k}


def _sample(rows: list[Problem], n: int, seed: int, where: str) -> list[Problem]:
    if n > len(rows):
        raise InputError(f"n_prompts and n_fewshot ask for {n} rows, but {where} has {len(rows)}")
    return random.Random(seed).sample(rows, n)


def _gsm8k_hub(split: str) -> list[Problem]:
    from datasets import load_dataset

    try:
        rows = load_dataset(*GSM8K_HUB, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"task 'gsm8k' cannot load {GSM8K_HUB[0]}: {reason}; or name a local JSONL as data_file") from error
    return [_problem(f"gsm8k/{split}/{index}", row) for index, row in enumerate(rows)]


def _gsm8k_file(data_file: str) -> list[Problem]:
    rows = []
    for number, line in enumerate(_read(data_file).split(b"\n")):
        if line.strip():
            try:
                row = json.loads(line)
                rows.append(_problem(f"{Path(data_file).name}/{number}", row))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise InputError(
                    f"data_file {data_file!r} line {number + 1} is no JSON object with 'question' and 'answer': {error}"
                ) from error
    return rows


def _problem(row_id: str, row: dict[str, str]) -> Problem:
    answer = row["answer"].strip()
    number = STRICT.search(answer)
    if number is None:
        raise ValueError("its answer has no '#### number'")
    question = row["question"].strip()
    return Problem(row_id, question, answer, clean(number.group(1)), ASKED.format(question))


def _read(data_file: str) -> bytes:
    path = user_path("data_file", data_file)
    try:
        return (REPOSITORY / path if (REPOSITORY / path).exists() else path).read_bytes()
    except OSError as error:
        raise InputError(f"data_file {data_file!r} cannot be read: {error.strerror}") from error
