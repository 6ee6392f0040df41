import copy

import pytest

from kvhelpers.errors import InputError
from kvhelpers.models.chat_template import check_chat_template

EACH = "{%% for message in messages %%}%s{%% endfor %%}"


@pytest.fixture
def with_template(embedded):
    def with_template(template):
        tokenizer = copy.deepcopy(embedded.tokenizer)
        tokenizer.chat_template = template
        return tokenizer

    return with_template


def test_templates_that_trim_or_name_roles_are_taken(embedded, with_template):
    check_chat_template(embedded.tokenizer)
    check_chat_template(with_template(EACH % "[{{ message.role }}] {{ message.content | trim }}\n"))


@pytest.mark.parametrize(
    "template",
    [
        "Hello.",
        " ",
        EACH % "",
        EACH % "{{ message.role }}",
        EACH % "{{ message.content | e }}",
        EACH % "{{ message.content | tojson }}",
        EACH % "{{ message.content | lower }}",
        EACH % "{{ message.content[:20] }}",
        EACH % "{{ message.content | replace('\n', ' ') }}",
        "{{ messages[-1].content }}",
        EACH % "{% if message.role == 'user' %}{{ message.content }}{% endif %}",
    ],
)
def test_a_template_does_not_alter_or_lose_messages(with_template, template):
    with pytest.raises(InputError, match="does not render the (user|assistant)'s message"):
        check_chat_template(with_template(template))


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('no') }}", "{{ 1 / 0 }}", "{% for", "{{ messages.x.y }}", {"tools": "x"}]
)
def test_a_template_that_fails_is_no_traceback(with_template, template):
    with pytest.raises(InputError, match="chat template cannot be rendered"):
        check_chat_template(with_template(template))
