"""No stop string ends a run while it thinks: in batches, with drafts, and when what watches it takes back the
end of its thoughts.
"""

from functools import partial

import pytest
from reference import alone, save_answering

from kvhelpers.generation.choose import Chooser
from kvhelpers.generation.generate import generate
from kvhelpers.generation.requests import Request, Settings
from kvhelpers.generation.rows import Row
from kvhelpers.generation.watch import Action
from kvhelpers.models.load import load_model
from kvhelpers.records import StopReason

TAGS = ("<think>", "</think>")
PIECES = ["<think>", "a", "Question: b", "</think>", "c", "\nQuestion: d", "e"]


@pytest.fixture
def answering(tmp_path):
    return load_model(str(save_answering(tmp_path / "model", PIECES)), device="cpu")


def runs_of(lm, tags, *, thinking=False, watch=None, prompts=("x", "a longer prompt"), **settings):
    requests = [Request(lm.tokenizer.encode(text), None, 0, watch, thinking) for text in prompts]
    wanted = Settings(20, 2, stop_strings=("Question:",), think_tags=tags, **settings)
    return sorted(generate(lm, requests, wanted), key=lambda run: run.index)


def pieces_of(lm, run):
    return [lm.tokenizer.decode([token]) for token in run.token_ids]


@pytest.mark.parametrize("drafts", (False, True))
def test_a_stop_string_counts_behind_the_thoughts_only(answering, drafts):
    for run in runs_of(answering, TAGS, drafts=drafts):
        assert pieces_of(answering, run) == PIECES[:6] and run.stop_reason == StopReason.STOP_STRING
    for run in runs_of(answering, None, drafts=drafts):
        assert pieces_of(answering, run) == PIECES[:3] and run.stop_reason == StopReason.STOP_STRING
    prompt = answering.tokenizer.encode("x")
    assert alone(answering, prompt, None, 0, 20)[:6] == runs_of(answering, TAGS)[0].token_ids


@pytest.mark.parametrize(("thinking", "length"), [(False, 2), (True, 4)])
def test_thoughts_may_be_open_at_the_prompt_s_end(tmp_path, thinking, length):
    pieces = ["a", "Question: b", "</think>", "\nQuestion:", "c"]
    lm = load_model(str(save_answering(tmp_path / "model", pieces)), device="cpu")
    for run in runs_of(lm, TAGS, thinking=thinking):
        assert pieces_of(lm, run) == pieces[:length]


class Once:
    """Takes back all but the first two tokens when there are five."""

    def __init__(self):
        self.action = Action("again", 2)

    def look(self, tokens, signals):
        if len(tokens) < 5 or self.action is None:
            return None
        action, self.action = self.action, None
        return action


def test_thoughts_are_open_again_where_their_end_is_taken_back(answering):
    """The tokens that are kept end in thoughts, and a stop string follows in them."""
    for run in runs_of(answering, TAGS, watch=Once):
        assert run.acted[0].keep == 2 and pieces_of(answering, run) == PIECES[:6]


class TakeUp:
    """Gives a run its first tokens before its prefill."""

    def __init__(self, tokens):
        self.action = Action("take up", 0, None, tuple(tokens))

    def look(self, tokens, signals):
        action, self.action = self.action, None
        return action


def test_a_run_that_is_taken_up_knows_that_it_thinks(answering):
    tokens = answering.tokenizer.convert_tokens_to_ids(PIECES)
    for given, end in ((2, 6), (4, 6)):
        for run in runs_of(answering, TAGS, watch=partial(TakeUp, tokens[:given])):
            assert pieces_of(answering, run) == PIECES[:end]


@pytest.mark.parametrize("closing", [("</think>",), ("</", "th", "ink", ">\n\n")])
def test_white_space_behind_the_thoughts_is_no_stop_string(tmp_path, closing):
    blank, answer = ["\n\n", " \n\n", "\n \n"], ["It is", " 8.", ".\n\n", "no"]
    pieces = ["<think>", "a\n\nb", *closing, *blank, *answer]
    lm = load_model(str(save_answering(tmp_path / "model", pieces)), device="cpu")
    requests = [Request(lm.tokenizer.encode("x"), None, 0)]
    (run,) = generate(lm, requests, Settings(20, 1, stop_strings=("\n\n",), think_tags=TAGS))
    assert pieces_of(lm, run) == pieces[:-1] and run.stop_reason == StopReason.STOP_STRING


def test_white_space_behind_the_thoughts_is_none_in_a_long_answer_either(tmp_path):
    """Where the end of the thoughts is no longer among the tokens that are looked at."""
    pieces = ["<think>", "a", "</think>", "\n\n", " \n\n", "It", " is", " 8", " or", " so", "."]
    lm = load_model(str(save_answering(tmp_path / "model", pieces)), device="cpu")
    chooser = Chooser(lm, Settings(20, 1, stop_strings=("\n\n",), think_tags=TAGS))
    chooser.longest, row = 4, Row(0, Request([3], None, 0), 0.0, None)
    for token in lm.tokenizer.convert_tokens_to_ids(pieces):
        row.tokens.append(token)
        assert not chooser._ends_in_stop_string(row)
    row.tokens.append(lm.tokenizer.convert_tokens_to_ids("\n\n"))
    assert chooser._ends_in_stop_string(row)
