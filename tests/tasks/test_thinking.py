"""What of an answer is thought, told by its tags; the reference walks through the text tag by tag."""

import itertools
from types import SimpleNamespace

import pytest

from kvhelpers.tasks.thinking import KNOWN, is_thinking, opens_thoughts, think_tags, thought_part

TAGS = ("<think>", "</think>")


def walked(pieces, tags, thinking):
    """The same, piece by piece: whether the text ends in thoughts, and how many pieces they take."""
    closed = 0
    for place, piece in enumerate(pieces):
        thinking = {tags[0]: True, tags[1]: False}.get(piece, thinking)
        closed = place + 1 if piece == tags[1] else closed
    return thinking, len(pieces) if thinking else closed


@pytest.mark.parametrize("before", (False, True))
def test_thoughts_end_behind_the_last_closing_tag_or_not_at_all(before):
    for pieces in itertools.product(["<think>", "</think>", "#### 8\n", "a <think>, ä\n"], repeat=4):
        text = "".join(pieces)
        ends = [len("".join(pieces[: place + 1])) for place in range(len(pieces))]
        open_, n = walked(pieces, TAGS, before)
        assert is_thinking(text, TAGS, before) == open_
        assert thought_part(text, ends, TAGS, before) == (n, ends[n - 1] if n else 0)


def test_a_tag_that_is_only_spoken_of_opens_nothing():
    assert not is_thinking("#### 8\nI used <think> tags.", TAGS)
    assert is_thinking(" \n <think>\n9", TAGS) and is_thinking("9\n<think>", TAGS)
    harmony = ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>")
    assert is_thinking("<|start|>assistant<|channel|>analysis<|message|>9", harmony)


@pytest.mark.parametrize("tags", KNOWN)
def test_a_template_opens_thoughts_wherever_its_tag_stands(tags):
    for before in ("", "[/INST]", "ASSISTANT: ", "<|im_start|>assistant\n"):
        assert opens_thoughts(f"{before}{tags[0]}\n", tags)
        assert not opens_thoughts(f"{before}{tags[0]}\n\n{tags[1]}\n", tags)
    assert not opens_thoughts("ASSISTANT:", tags) and not opens_thoughts(tags[0], None)


def test_a_tag_of_several_tokens_ends_within_one():
    pieces = ["<th", "ink>\n", "9", "</th", "ink>#", "### 8", ""]  # the last one is the end token
    ends = [len("".join(pieces[: place + 1])) for place in range(len(pieces))]
    tokens, chars = thought_part("".join(pieces), ends, TAGS, False)
    assert tokens == 5 and "".join(pieces)[chars:] == "#### 8"


def test_without_tags_nothing_is_known_and_nothing_is_thought():
    assert thought_part("<think>", [7], None, False) == (None, None) and not is_thinking(
        "<think>", None, True
    )
    assert thought_part("", [], TAGS, True) == (0, 0)


@pytest.mark.parametrize("tags", KNOWN)
def test_tags_come_from_the_template_or_are_given(tags):
    for template in (f"x{tags[0]}y{tags[1]}", f"only {tags[1]}", {"default": f"x{tags[0]}y"}):
        assert think_tags(SimpleNamespace(chat_template=template)) == tags
    assert think_tags(SimpleNamespace(chat_template=f"x{tags[0]}y"), ["a", "b"]) == ("a", "b")
    for template in ("", None, "I think so", "<tool>"):
        assert think_tags(SimpleNamespace(chat_template=template)) is None


def test_the_embedded_model_does_not_think(embedded):
    assert think_tags(embedded.tokenizer) is None
