"""Problems with worked solutions, and the prompts made of them.

The wording is lm-evaluation-harness's for GSM8K (https://github.com/EleutherAI/lm-evaluation-harness).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STOP_STRINGS = ("Question:", "</s>", "<|im_end|>")  # an answer ends where one of them begins
ASKED = "Question: {}\nAnswer:"


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


def build_prompts(
    problems: Sequence[Problem],
    examples: Sequence[Problem],
    tokenizer: PreTrainedTokenizerBase,
    multiturn: bool = True,
) -> list[Prompt]:
    """Make chat prompts.

    ``multiturn`` gives each worked example a user and an assistant message (lm-evaluation-harness's
    ``--fewshot_as_multiturn --apply_chat_template``); otherwise everything is one user message.
    """
    messages_of = _turns if multiturn else _one_message
    prompts = []
    for problem in problems:
        messages = messages_of(problem, examples)
        token_ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        prompts.append(Prompt(problem.id, problem.question, problem.reference, messages, token_ids))
    return prompts


def _turns(problem: Problem, examples: Sequence[Problem]) -> list[dict[str, str]]:
    messages = []
    for example in examples:
        messages.append({"role": "user", "content": example.asked})
        messages.append({"role": "assistant", "content": example.solution})
    return [*messages, {"role": "user", "content": problem.asked}]


def _one_message(problem: Problem, examples: Sequence[Problem]) -> list[dict[str, str]]:
    solved = [f"{ASKED.format(example.question)} {example.solution}" for example in examples]
    return [{"role": "user", "content": "\n\n".join([*solved, ASKED.format(problem.question)])}]
