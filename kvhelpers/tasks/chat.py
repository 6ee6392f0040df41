"""How a model's chat template is called, and whether it passes messages on: a prompt whose messages it alters
would be another prompt than the one that the results show.
"""

from __future__ import annotations

import datetime
import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kvhelpers.errors import InputError, shown, unknown_name

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE_DATE = "2025-01-01"  # of which a template is told that it is today

CHANCE = 7  # characters of a message that a text may have by chance


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, str]],
    date: str = TEMPLATE_DATE,
    kwargs: Mapping[str, Any] | None = None,
    tokenize: bool = False,
    **how: bool,
) -> Any:
    """What `apply_chat_template` makes of messages: text, or token ids with ``tokenize``.

    ``date`` is what a template is told that today is: ``strftime_now``, its only clock, says it at midnight.
    ``kwargs`` are parameters of the template, ``how`` those of `apply_chat_template`.
    """
    today = datetime.date.fromisoformat(date)
    return tokenizer.apply_chat_template(
        list(messages),
        tokenize=tokenize,
        return_dict=False,
        strftime_now=today.strftime,
        **how,
        **(kwargs or {}),
    )


def checked_text(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, str]],
    prompt: str,
    date: str = TEMPLATE_DATE,
    kwargs: Mapping[str, Any] | None = None,
    strip: bool = False,
    **how: bool,
) -> str:
    """The text of a chat; ``prompt`` is what a message calls it. With ``strip`` a message may lose white
    space at its ends.

    Raises
    ------
    InputError : the template refuses it, makes another text of it each time, or leaves out or alters a part
        of a message.
    """
    try:
        text, again = (render(tokenizer, messages, date, kwargs, **how) for _ in range(2))
    except Exception as error:  # a template is a program of anybody's making
        reason = str(error).strip() or type(error).__name__
        roles = ", ".join(message["role"] for message in messages)
        sentence = f"the chat template cannot render {prompt}, messages of {roles}: {reason}"
        raise InputError(sentence) from error
    if text != again:
        raise InputError(
            f"the chat template renders {prompt} in another way each time; it must not depend on chance"
        )
    if strip:
        messages = [{**message, "content": message["content"].strip()} for message in messages]
    if (altered := first_altered(messages, text)) is not None:
        raise InputError(
            f"the chat template does not render {prompt} as it is: of the {altered['role']}'s message "
            f"{shown(altered['content'])} this is missing: {shown(_missing(altered['content'], text))}; take "
            "it out of the task's text, or use a template that leaves it in"
        )
    return text


def first_altered(messages: Sequence[Mapping[str, str]], text: str) -> Mapping[str, str] | None:
    """The first message that is not in a rendered chat as it was, or None. The system's may stand anywhere,
    the others in their order.
    """
    place = 0
    for message in messages:
        in_order = message["role"] != "system"
        start = text.find(message["content"], place if in_order else 0)
        if start < 0:
            return message
        place = start + len(message["content"]) if in_order else place
    return None


def _missing(content: str, text: str) -> str:
    """The message without what the text has of its beginning and end; a few equal characters are chance."""
    first = next((n for n in range(len(content), CHANCE, -1) if content[:n] in text), 0)
    last = next((n for n in range(len(content) - first, CHANCE, -1) if content[-n:] in text), 0)
    return content[first : len(content) - last] or content


def check_template_kwargs(tokenizer: PreTrainedTokenizerBase, kwargs: Mapping[str, Any]) -> None:
    """Raise InputError for a parameter that the chat template never reads, or that is set otherwise."""
    if not kwargs:
        return
    own = {"messages", "strftime_now", *inspect.signature(tokenizer.apply_chat_template).parameters}
    read = _names_read(tokenizer.get_chat_template()) - own - set(tokenizer.special_tokens_map)
    for name in kwargs:
        if name in own:
            raise InputError(f"chat_template_kwargs {name!r} is not allowed; it is set otherwise here")
        if name not in read:
            raise unknown_name("chat_template_kwargs", name, sorted(read) or ["none: it reads none"])


def _names_read(template: str) -> set[str]:
    """The names that a template looks up where it is called."""
    from jinja2 import meta
    from transformers.utils.chat_template_utils import _compile_jinja_template  # knows the template's tags

    return meta.find_undeclared_variables(_compile_jinja_template(template).environment.parse(template))
