"""Whether a chat template passes messages on as they are, told by a probe before the model is loaded; each
real prompt is checked by `tasks.chat`.
"""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from kvhelpers.errors import InputError
from kvhelpers.tasks.chat import first_altered, render

# with what templates may escape, strip or cut, none of it at the beginning or end
PROBE = (
    ("user", 'Is 3 < 4 & 5 > 2, or not?\nSay "yes" if it\'s so; Größe: {{ 7 }} × \\n.'),
    ("assistant", "Yes: 3 < 4.\n\n#### 12"),
    ("user", "And 8 < 9?\nAnswer:"),
)


def check_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Render two conversations of one and of several messages.

    Raises
    ------
    InputError : there is no template, it cannot be rendered, or a message is not in the text as it was.
    """
    if not tokenizer.chat_template:
        raise InputError("it has no chat template; use an instruction-tuned (chat) model")
    messages = [{"role": role, "content": content} for role, content in PROBE]
    for conversation in (messages[:1], messages):
        try:
            text = render(tokenizer, conversation, add_generation_prompt=True)
        except Exception as error:  # a template is a program of anybody's making
            reason = str(error).strip() or type(error).__name__
            raise InputError(f"its chat template cannot be rendered ({reason})") from error
        if (message := first_altered(conversation, text)) is not None:
            raise InputError(
                f"its chat template does not render the {message['role']}'s message "
                f"{message['content']!r} as it is, but {text[:200]!r}"
            )
