"""Problems with worked solutions, and the prompts made of them.

The wording is lm-evaluation-harness's for GSM8K (https://github.com/EleutherAI/lm-evaluation-harness).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import StrictUndefined
from jinja2.exceptions import TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from kvhelpers.errors import InputError, shown
from kvhelpers.paths import REPOSITORY, user_path
from kvhelpers.tasks.chat import TEMPLATE_DATE, check_template_kwargs, checked_text, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STOP_STRINGS = ("Question:", "</s>", "<|im_end|>")  # an answer ends where one of them begins
ASKED = "Question: {}\nAnswer:"
POSITIONS = ("last", "first")  # where the question stands: after the worked examples, or before them
COMPRESS = PROMPT, CONTEXT = (
    "prompt",
    "context",
)  # what a press compresses: all, or what stands before the question
BEFORE_EXAMPLES = (
    "Answer this question:\n\n{}\n\n"
    "These are other questions with their answers, to show the form of an answer:"
)
JINJA = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
AFTER_EXAMPLES = "Now answer the question at the top.\nAnswer:"


@dataclass(frozen=True)
class Problem:
    """A question, its worked solution ending in ``#### number``, and the number.

    ``id`` points at the original row, and ``place`` says for people where that is; ``asked`` is the question
    as the user's chat message says it.
    """

    id: str
    place: str
    question: str
    solution: str
    reference: str
    asked: str


@dataclass(frozen=True)
class Prompt:
    """A problem as the model sees it: chat messages, and their token ids with the assistant's turn opened.

    ``opening`` is what opens that turn, the text behind the last message; ``question_tokens`` are the places
    of the question's text, first and behind the last, or None where the tokenizer does not tell. The first
    ``context`` tokens are what a press compresses; None: all.
    """

    id: str
    question: str
    reference: str
    messages: list[dict[str, str]]
    token_ids: list[int]
    opening: str = ""
    question_tokens: tuple[int, int] | None = None
    context: int | None = None

    @property
    def compressed(self) -> list[int]:
        """The tokens that a press compresses."""
        return self.token_ids[: self.context]


def build_prompts(
    problems: Sequence[Problem],
    examples: Sequence[Problem],
    tokenizer: PreTrainedTokenizerBase,
    multiturn: bool = True,
    question_position: str = "last",
    template_date: str = TEMPLATE_DATE,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    prompt_template: str | None = None,
    compress: str = PROMPT,
) -> list[Prompt]:
    """Make chat prompts.

    ``multiturn`` gives each worked example a user and an assistant message (lm-evaluation-harness's
    ``--fewshot_as_multiturn --apply_chat_template``); otherwise everything is one user message.
    ``question_position`` ``first`` puts the question before the examples, and what remains behind them is a
    request to answer it: then a press that keeps the prompt's end does not keep the question.
    ``prompt_template`` is a file that makes the one message instead (`one_message`).
    ``compress`` ``context`` makes two texts of the message, which are tokenized apart, as kvpress's
    `KVPressTextGenerationPipeline` does it: what stands before the question, and the question with the end of
    the turn. A template's message is cut where the question's last occurrence begins.
    ``template_date`` and ``chat_template_kwargs`` are `chat.render`'s.

    Raises
    ------
    InputError : the question first in chat turns, after which models say that they were asked nothing; a text
        has one of the model's control tokens in it, with which it could end its turn and begin another one;
        the chat template alters a message, or never reads one of its parameters; what `check_compress`
        refuses, or a template that has nothing before the question.
    """
    check_position(question_position, multiturn)
    n_fewshot = len(examples) if prompt_template is None else None
    check_compress(compress, multiturn and prompt_template is None, question_position, n_fewshot)
    check_template_kwargs(tokenizer, chat_template_kwargs or {})
    for problem in (*examples, *problems):
        _check_text(problem, tokenizer)
    prompts, template = [], None if prompt_template is None else read_template(prompt_template)
    for problem in problems:
        if template is not None:
            messages = [{"role": "user", "content": one_message(template, problem, examples)}]
        elif multiturn:
            messages = _turns(problem, examples)
        else:
            messages = _one_message(problem, examples, question_position == "first")
        how = {"date": template_date, "kwargs": chat_template_kwargs, "add_generation_prompt": True}
        text = checked_text(tokenizer, messages, f"prompt {problem.id}", **how)
        last = messages[-1]["content"]
        opening = text.rpartition(last)[2] if last else text
        context, asked = None, None
        if compress == CONTEXT:
            question = ASKED.format(problem.question) if template is None else problem.question
            parts = _apart(text, last, question, problem)
            tokens = [tokenizer.encode(part, add_special_tokens=False) for part in parts]
            token_ids, context = [*tokens[0], *tokens[1]], len(tokens[0])
        else:
            token_ids = render(tokenizer, messages, tokenize=True, **how)
            asked = _places(problem.question, text, token_ids, tokenizer)
        told = (problem.id, problem.question, problem.reference, messages)
        prompts.append(Prompt(*told, token_ids, opening, asked, context))
    return prompts


def _apart(text: str, message: str, question: str, problem: Problem) -> tuple[str, str]:
    """A prompt's text up to the last occurrence of a question in its last message, and from there on."""
    before = message.rpartition(question)[0]
    if not before.strip():
        raise InputError(
            f"compress {CONTEXT!r} compresses what stands before the question, and prompt_template has "
            f"nothing there in the prompt of {problem.place}"
        )
    place = text.rindex(message) + len(before)
    return text[:place], text[place:]


def read_template(path: str) -> str:
    """The text of a prompt template.

    Raises
    ------
    InputError : it cannot be read, or is no jinja.
    """
    place = user_path("prompt_template", path)
    try:
        text = (REPOSITORY / place if (REPOSITORY / place).exists() else place).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise InputError(f"prompt_template {shown(path)} cannot be read: {reason}") from error
    try:
        JINJA.parse(text)
    except TemplateSyntaxError as error:
        raise InputError(f"prompt_template {shown(path)} is no jinja: {error.message}") from error
    return text


def one_message(template: str, problem: Problem, examples: Sequence[Problem]) -> str:
    """What a jinja template makes of ``question`` and ``examples``, each with ``question`` and ``answer``.

    Raises
    ------
    InputError : it fails, or leaves the question or that of an example out.
    """
    worked = [{"question": example.question, "answer": example.solution} for example in examples]
    try:
        text = JINJA.from_string(template).render(examples=worked, question=problem.question)
    except Exception as error:  # a template is a program of anybody's making
        raise InputError(f"prompt_template fails on {problem.place}: {error}") from error
    for one, what in (
        (problem, "question"),
        *((example, "worked example's question") for example in examples),
    ):
        if one.question not in text:
            raise InputError(
                f"prompt_template leaves out or alters the {what} of {one.place}; write {{{{ question }}}}, "
                "and the examples' in a loop over examples; n_fewshot 0 is none"
            )
    return text


def _places(
    question: str, text: str, token_ids: Sequence[int], tokenizer: PreTrainedTokenizerBase
) -> tuple[int, int] | None:
    """The tokens in which a question's last occurrence in a prompt lies, first and behind the last."""
    start = text.rfind(question)
    if start < 0 or not getattr(tokenizer, "is_fast", False):
        return None
    whole = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    if whole["input_ids"] != list(token_ids):
        return None
    spans = enumerate(whole["offset_mapping"])
    inside = [at for at, (a, b) in spans if a < start + len(question) and b > start and b > a]
    return (inside[0], inside[-1] + 1) if inside else None


def text_hash(text: str) -> str:
    """Hex SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def prompt_hash(token_ids: Sequence[int]) -> str:
    """What tells a prompt's tokens from others: the first 16 hex digits of the SHA-256 of their ids, written
    in decimal with spaces between them.
    """
    return hashlib.sha256(" ".join(map(str, token_ids)).encode()).hexdigest()[:16]


def check_position(question_position: str, multiturn: bool) -> None:
    """Raise InputError for a question before examples that are turns of a chat."""
    if question_position == "first" and multiturn:
        raise InputError(
            "question_position 'first' needs multiturn false: with the examples as chat turns behind the "
            "question, models say that they were asked nothing"
        )


def check_compress(
    compress: str, multiturn: bool, question_position: str, n_fewshot: int | None = None
) -> None:
    """Raise InputError where no context stands before the question in one message; ``n_fewshot`` None:
    something may, whatever the number of worked examples.
    """
    if compress != CONTEXT:
        return
    given = {"multiturn": (multiturn, False), "question_position": (question_position, "last")}
    for name, (value, needed) in given.items():
        if value != needed:
            raise InputError(
                f"{name} {value!r} does not fit compress {CONTEXT!r}, whose context is all that stands "
                f"before the question in one message: use {needed!r}"
            )
    if n_fewshot == 0:
        raise InputError(
            f"n_fewshot 0 does not fit compress {CONTEXT!r}: nothing stands before the question that could "
            "be compressed; use 1 or more, or a prompt_template"
        )


def _check_text(problem: Problem, tokenizer: PreTrainedTokenizerBase) -> None:
    for text in (problem.question, problem.solution):
        if (token := _control_token(text, tokenizer)) is not None:
            raise InputError(
                f"{problem.place} has {token!r} in it, a control token of the model, which could begin or "
                "end a turn of the chat; take it out"
            )


def _control_token(text: str, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """A control token that the tokenizer sees in a text or that is spelt out there, or None. What stands for
    unknown text may be one, so that its id alone proves nothing.
    """
    ids = set(tokenizer(text, add_special_tokens=False)["input_ids"]) - {tokenizer.unk_token_id}
    for token_id, token in tokenizer.added_tokens_decoder.items():
        if token.special and (token_id in ids or token.content in text):
            return token.content
    return None


def _turns(problem: Problem, examples: Sequence[Problem]) -> list[dict[str, str]]:
    messages = []
    for example in examples:
        messages.append({"role": "user", "content": example.asked})
        messages.append({"role": "assistant", "content": example.solution})
    return [*messages, {"role": "user", "content": problem.asked}]


def _one_message(problem: Problem, examples: Sequence[Problem], question_first: bool) -> list[dict[str, str]]:
    parts = [f"{ASKED.format(example.question)} {example.solution}" for example in examples]
    if question_first and examples:
        before = BEFORE_EXAMPLES.format(f"Question: {problem.question}")
        parts = [before, *parts, AFTER_EXAMPLES]
    else:
        parts = [*parts, ASKED.format(problem.question)]
    return [{"role": "user", "content": "\n\n".join(parts)}]
