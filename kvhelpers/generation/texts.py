"""A run's tokens as text, and how far the text reaches with each of them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kvhelpers.models.load import LanguageModel

LOOK_BACK = 16  # tokens that are decoded with those that follow, for decoders that look at what is before
LOOK_BACK_CHARS = 8  # of which there are at least: more than tokenizers clean up together
INCOMPLETE = "\ufffd"
BYTE = re.compile("<0x[0-9A-F]{2}>")  # a byte of sentencepiece's: a run of them is decoded as a whole


def answer_text(token_ids: list[int], lm: LanguageModel) -> str:
    """A run's text without the end token."""
    ids = token_ids[:-1] if token_ids and token_ids[-1] in lm.stop_ids else token_ids
    return lm.tokenizer.decode(ids)


def char_ends(token_ids: Sequence[int], lm: LanguageModel) -> list[int]:
    """For each token, how many characters of the text are there when it is; an incomplete character does not
    count yet.

    Each is as long as the decoded tokens up to it are without incomplete characters at their end, but at
    least as long as the one before, and at most as long as `answer_text`. To be linear, only some last tokens
    are decoded each time, from a place at which the decoder has nothing left over; a run of sentencepiece's
    bytes has none inside.
    """
    decode, ids = lm.tokenizer.decode, list(token_ids)
    longest = len(answer_text(ids, lm))
    ends: list[int] = []
    # the decoded tokens begin at `start`; those from `settled` on are counted, after `base` characters of the
    # text and `skipped` of what is decoded
    start = settled = base = skipped = reached = 0
    before = ""
    for place, token in enumerate(ids):
        text = decode(ids[start : place + 1])
        new = len(before) - skipped
        if (
            place - settled >= LOOK_BACK
            and new >= LOOK_BACK_CHARS
            and not BYTE.fullmatch(lm.tokenizer.convert_ids_to_tokens(ids[place - 1]) or "")
            and (not before.endswith(INCOMPLETE) or text == before + decode([token]))
        ):
            start, settled, base = settled, place, base + new
            skipped = len(decode(ids[start:settled]))
            text = decode(ids[start : place + 1])
        if (seen := len(text.rstrip(INCOMPLETE))) > skipped:
            reached = max(reached, base + seen - skipped)
        ends.append(min(reached, longest))
        before = text
    return ends
