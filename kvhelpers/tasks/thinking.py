"""Thinking models: where their thoughts end and the answer begins, told by two tags in their text.

Text behind the last closing tag is the answer. A run that thinks at its end has none: its thoughts were
opened (by itself, or by the end of its prompt) and are not closed. A tag opens thoughts where a line or
another mark begins; in the midst of a sentence it is only spoken of.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tags = tuple[str, str]
KNOWN: tuple[Tags, ...] = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<thought>", "</thought>"),
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("◁think▷", "◁/think▷"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)


def think_tags(tokenizer: PreTrainedTokenizerBase, given: Sequence[str] | None = None) -> Tags | None:
    """The tags that open and close a model's thoughts: those given, else the first known ones of which its
    chat template has one; None: it does not think.
    """
    if given is not None:
        return given[0], given[1]
    template = tokenizer.chat_template
    text = template if isinstance(template, str) else "".join((template or {}).values())
    return next((tags for tags in KNOWN if any(tag in text for tag in tags)), None)


def is_thinking(text: str, tags: Tags | None, before: bool = False) -> bool:
    """Whether thoughts are open at the end of a text; ``before``: whether they were at its beginning."""
    if tags is None:
        return False
    special = tags[0].startswith("<|")  # nobody speaks of a special token
    opened = [m.end() for m in re.finditer(("" if special else r"(?:^|[\n>])\s*") + re.escape(tags[0]), text)]
    closed = text.rfind(tags[1])
    return before if not opened and closed < 0 else max(opened, default=-1) > closed


def opens_thoughts(opening: str, tags: Tags | None) -> bool:
    """Whether what opens the assistant's turn, the chat template's own text, leaves thoughts open. Nobody
    speaks of a tag there, so that it counts wherever it stands.
    """
    return tags is not None and opening.rfind(tags[0]) > opening.rfind(tags[1])


def thought_part(
    text: str, char_ends: Sequence[int], tags: Tags | None, before: bool
) -> tuple[int | None, int | None]:
    """How many tokens and characters of an answer are thoughts, up to and including the closing tag; all of
    them where thoughts are open at its end. None without tags. ``char_ends`` and ``before`` are as in
    `scoring.score.Ended` and `is_thinking`.
    """
    if tags is None:
        return None, None
    if is_thinking(text, tags, before):
        return len(char_ends), len(text)
    closed = text.rfind(tags[1])
    if closed < 0:
        return 0, 0
    end = closed + len(tags[1])
    return bisect_left(char_ends, end) + 1, end
