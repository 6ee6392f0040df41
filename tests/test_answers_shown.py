"""Answers as HTML: parsed again, they say what the run says, and nothing in them acts."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from factories import LENGTH, make_result

from kvhelpers.answers import ALARM, CUT, FULL, LOOP, Answers, ShownAnswer
from kvhelpers.errors import InputError

NASTY = '<script>x("&amp;")</script>\n\'"`{{ 7 }}'  # LENGTH characters and more
TAGS = {"table", "tr", "th", "td", "span", "b", "br", "p"}


class Parsed(HTMLParser):
    """The tags of some HTML with their attributes, its tokens by their titles, and each cell's text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.tokens, self.cells, self.inside, self.token = [], [], [], False, None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append((tag, given))
        if tag == "td":
            self.inside = True
            self.cells.append("")
        self.token = given if "title" in given else None
        if self.token is not None:
            self.tokens.append(given | {"text": ""})

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "td"
        self.token = None

    def handle_data(self, data):
        if self.inside:
            self.cells[-1] += data
        if self.token is not None:
            self.tokens[-1]["text"] += data


def shown(text=NASTY, alarm=None, onset=None, entropy=None, title="a <b>"):
    onsets = {} if onset is None else {0: onset}
    result = make_result("knorm", 0.5, [False], onsets, text=text, entropy=entropy)
    record = result.records[0]
    if onset is not None:
        record = record.model_copy(update={"loop_onset_char": onset})
    return ShownAnswer(title, record, result.signals(), alarm)


def parsed(*answers, most=None):
    return Parsed(Answers(answers, most)._repr_html_())


def opacity(token):
    return float(re.search(r"rgba\(230, 97, 1, ([\d.]+)\)", token["style"]).group(1))


def test_every_token_is_there_and_none_acts():
    page = parsed(shown(), shown("plain text"))
    assert {tag for tag, _ in page.tags} <= TAGS
    assert {name for _, given in page.tags for name in given} <= {"style", "title"}
    assert page.cells[0] == NASTY[:LENGTH].replace("\n", "↵\n")
    assert page.cells[1] == "plain text" + "▯" * (LENGTH - len("plain text"))
    assert len(page.tokens) == 2 * LENGTH


def test_a_text_without_spaces_stays_in_its_column():
    """By a style that JupyterLab lets through: its sanitizer takes ``word-break: break-word`` away."""
    style = next(given["style"] for tag, given in parsed(shown("TomTomTom")).tags if tag == "td")
    assert "overflow-wrap: break-word" in style and "word-break" not in style


def test_shade_and_hover_are_the_token_s_numbers():
    entropy = np.linspace(0, 2 * FULL, 9)
    page = parsed(shown("abcdefghi", entropy={0: entropy}))
    shades = list(map(opacity, page.tokens))
    assert shades[:5] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8]) and set(shades[5:]) == {0.8}
    for step, token in enumerate(page.tokens):
        number, nats, probability = token["title"].split("\n")
        assert number == f"token {step}" and nats == f"entropy {entropy[step]:.2f} nats"
        assert probability == f"top-1 probability {np.exp(-entropy[step]):.2f}"


def test_loop_and_alarm_are_marked_where_they_are():
    one = shown("abcdefghijklmnopqrstuvwxyz1234", alarm=2, onset=5)
    page = parsed(one)
    assert page.cells == [f"abc{ALARM}de{LOOP}fghijklmnopqrstuvwxyz1234"]
    in_loop = ["in the loop" in token["title"] for token in page.tokens]
    assert in_loop == ["dotted" in token["style"] for token in page.tokens] == [False] * 5 + [True] * 25
    assert [n for n, token in enumerate(page.tokens) if token["title"].endswith("alarm")] == [2]
    assert one.heading.endswith("loop from token 5 on, certain at 6, alarm at token 2")
    text = repr(Answers([one, shown("plain", title="b")]))
    assert f"abc{ALARM}de{LOOP}fgh" in text and text.startswith("a <b>") and "plain" in text


def test_of_a_long_run_the_part_around_the_loop_is_shown():
    text = "abcdefghijklmnopqrstuvwxyz1234"
    assert parsed(shown(text, onset=15), most=6).cells == [f"{CUT} mno{LOOP}pqr {CUT}"]
    assert parsed(shown(text, onset=29), most=6).cells == [f"{CUT} yz123{LOOP}4"]
    assert parsed(shown(text), most=6).cells == [f"abcdef {CUT}"]
    assert parsed(shown(text), most=90).cells == [text]


@pytest.mark.parametrize("character", ["\u202e", "\u2066", "\x00", "\x1b", "\u200b", "\u2028"])
def test_characters_that_act_on_the_text_around_are_shown_as_code(character):
    one = shown(f"a{character}b")
    code = f"⟨U+{ord(character):04X}⟩"
    assert parsed(one).cells[0].startswith(f"a{code}b") and f"a{code}b" in repr(Answers([one]))


def test_what_does_not_fit_is_refused():
    one = shown()
    with pytest.raises(InputError, match="tokens of 'x' have no column 'entropy'"):
        ShownAnswer("x", one.record, one.tokens.drop(columns="entropy"))
    with pytest.raises(InputError, match="tokens of 'x' are 29, its record has 30"):
        ShownAnswer("x", one.record, one.tokens[1:])
    for answers, most in (((), None), ((one,), 0)):
        with pytest.raises(InputError, match="give one or more"):
            Answers(answers, most)
