"""A prompt is what its messages say, on any day, with each of them in it; else it is refused by name."""

import copy
import datetime
from types import SimpleNamespace

import pytest
from reference import CHAT
from transformers.utils import chat_template_utils

from kvhelpers.errors import InputError
from kvhelpers.tasks.chat import check_template_kwargs, checked_text, render
from kvhelpers.tasks.load import load_problems
from kvhelpers.tasks.prompts import Problem, build_prompts, prompt_hash

DATED = "Today is {{ strftime_now('%d %B %Y') }}.\n"
# as Llama 3.1 and 3.2 have it
DATE_STRING = """{%- if not date_string is defined %}{%- if strftime_now is defined %}
{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}
{%- endif %}{%- endif %}Today Date: {{ date_string }}\n"""
IN_A_MACRO = "{% macro day() %}{{ strftime_now('%A') }}{% endmacro %}It is {{ day() }}.\n"
KEPT = "message.content.split('</think>')[-1].lstrip('\n') if message.role == 'assistant' else "
CUTS = CHAT.replace("message.content }}", KEPT + "message.content }}")  # as Qwen3 does
SWITCH = "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"


@pytest.fixture
def with_template(embedded):
    def with_template(template):
        tokenizer = copy.deepcopy(embedded.tokenizer)
        tokenizer.chat_template = template
        return tokenizer

    return with_template


@pytest.fixture
def on_the_day(monkeypatch):
    """Sets the clock that templates of transformers read."""

    def on_the_day(year):
        now = SimpleNamespace(now=lambda: datetime.datetime(year, 7, 14, 9, 30))
        monkeypatch.setattr(chat_template_utils, "datetime", now)

    return on_the_day


def problem(question="How many?", solution="#### 1", name="p/0"):
    return Problem(name, name, question, solution, "1", f"Question: {question}\nAnswer:")


@pytest.mark.parametrize("head", [DATED, DATE_STRING, IN_A_MACRO])
def test_the_day_makes_no_difference_and_the_parameter_does(with_template, on_the_day, head):
    tokenizer, made = with_template(head + CHAT), []
    for year in (2025, 2031):
        on_the_day(year)
        (prompt,) = build_prompts([problem()], [], tokenizer)
        made.append(prompt.token_ids)
        unpinned = tokenizer.apply_chat_template(prompt.messages, tokenize=False)
        assert unpinned != render(tokenizer, prompt.messages)  # the clock is read where nobody says the date
    (other,) = build_prompts([problem()], [], tokenizer, template_date="2031-07-14")
    assert made[0] == made[1] != other.token_ids
    assert other.token_ids == tokenizer.apply_chat_template(
        other.messages, add_generation_prompt=True, return_dict=False
    )
    assert prompt_hash(made[0]) == prompt_hash(made[1]) != prompt_hash(other.token_ids)


def test_a_template_that_throws_dice_is_refused(with_template):
    dice = "{{ range(100000) | random }}\n" + CHAT
    with pytest.raises(InputError, match="renders prompt p/0 in another way each time"):
        build_prompts([problem()], [], with_template(dice))


def test_thoughts_cut_from_an_example_are_named(with_template):
    thought = problem("How?", "<think>Is it 7?</think>\n\nIt is.\n#### 8", "p/1")
    tokenizer = with_template(CUTS)
    with pytest.raises(InputError) as refused:
        build_prompts([problem()], [thought], tokenizer)
    assert "prompt p/0" in str(refused.value) and "the assistant's message" in str(refused.value)
    assert "is missing: '<think>Is it 7?</think>" in str(refused.value)
    (prompt,) = build_prompts([problem()], [problem("How?", "It is.\n#### 8", "p/1")], tokenizer)
    assert prompt.opening == "<|im_end|>\n<|im_start|>assistant\n"
    (prompt,) = build_prompts([problem()], [thought], tokenizer, multiturn=False)
    assert "Is it 7?" in tokenizer.decode(prompt.token_ids)


@pytest.mark.parametrize(
    ("change", "question", "role"),
    [
        ("message.content | replace('  ', ' ') }}", "Two  spaces?", "user"),
        ("message.content[:60] }}", "Long? " * 20, "user"),
        ("(message.content if loop.last else '') }}", "How?", "user"),
        ("(message.content if message.role == 'user' else 'ok') }}", "How?", "assistant"),
    ],
)
def test_a_message_that_only_a_real_prompt_has_altered_is_refused(with_template, change, question, role):
    template = CHAT.replace("message.content }}", change)
    with pytest.raises(InputError, match=f"render prompt p/0 as it is: of the {role}'s message"):
        build_prompts([problem(question)], [problem("Why?", "#### 5", "p/1")], with_template(template))


def test_a_short_message_is_not_taken_for_a_part_of_another_one(with_template):
    """The example's answer, which the template drops, is also in the question."""
    template = CHAT.replace("message.content }}", "(message.content if message.role == 'user' else '') }}")
    with pytest.raises(InputError, match="of the .*'s message"):
        build_prompts([problem("Why #### 5?")], [problem("Why?", "#### 5", "p/1")], with_template(template))


def test_a_template_that_fails_on_a_prompt_is_no_traceback(with_template):
    once = CHAT + "{% if messages | length > 1 %}{{ raise_exception('one turn only') }}{% endif %}"
    with pytest.raises(InputError, match="cannot render prompt p/0, messages of user.*: one turn only"):
        build_prompts([problem()], [problem("Why?", "#### 5", "p/1")], with_template(once))


def test_white_space_around_a_message_may_go_where_that_is_asked(with_template):
    tokenizer = with_template(CHAT.replace("message.content }}", "message.content | trim }}"))
    chat = [{"role": "user", "content": "How many? \n"}]
    assert "How many?<" in checked_text(tokenizer, chat, "it", strip=True)
    with pytest.raises(InputError, match=r"is missing: ' \\n'"):
        checked_text(tokenizer, chat, "it")


def test_a_template_gets_its_own_parameters(with_template):
    tokenizer = with_template(CHAT + SWITCH)
    texts = [
        tokenizer.decode(prompt.token_ids)
        for kwargs in ({}, {"enable_thinking": True}, {"enable_thinking": False})
        for prompt in build_prompts([problem()], [], tokenizer, chat_template_kwargs=kwargs)
    ]
    assert texts[0] == texts[1] == texts[2].removesuffix("<think>\n\n</think>\n\n") != texts[2]


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"enable_thinkin": False}, "'enable_thinkin' is unknown; did you mean 'enable_thinking'"),
        ({"tokenize": True}, "'tokenize' is not allowed; it is set otherwise"),
        ({"add_generation_prompt": False}, "'add_generation_prompt' is not allowed"),
        ({"messages": []}, "'messages' is not allowed"),
        ({"strftime_now": "x"}, "'strftime_now' is not allowed"),
        ({"message": "x"}, "'message' is unknown"),  # the loop's own name
    ],
)
def test_a_parameter_that_the_template_never_reads_is_refused_by_name(with_template, kwargs, sentence):
    with pytest.raises(InputError, match="chat_template_kwargs " + sentence):
        check_template_kwargs(with_template(CHAT + SWITCH), kwargs)
    with pytest.raises(InputError, match="chat_template_kwargs "):
        build_prompts([problem()], [], with_template(CHAT), chat_template_kwargs=kwargs)


def test_a_parameter_that_a_template_sets_where_it_is_missing_is_one(with_template):
    tokenizer = with_template(DATE_STRING + CHAT)
    check_template_kwargs(tokenizer, {"date_string": "1 May 2020"})
    (prompt,) = build_prompts([problem()], [], tokenizer, chat_template_kwargs={"date_string": "1 May 2020"})
    assert "Today Date: 1 May 2020\n" in tokenizer.decode(prompt.token_ids)


def test_a_hash_is_of_all_tokens_in_their_order(embedded):
    hashes = {prompt_hash(ids) for ids in ([1, 23], [12, 3], [123], [23, 1], [1, 23, 0], [])}
    assert len(hashes) == 6 and all(len(value) == 16 and int(value, 16) >= 0 for value in hashes)
    assert prompt_hash([1, 2, 3]) == "7c8f5059290305ce"  # sha256 of "1 2 3"
    problems, examples = load_problems("onestep", 2, 1, seed=42)
    first, second = build_prompts(problems, examples, embedded.tokenizer)
    assert prompt_hash(first.token_ids) != prompt_hash(second.token_ids)
