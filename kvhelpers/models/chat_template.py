"""Whether a chat template passes messages on as they are; a prompt that it alters would be another prompt."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from kvhelpers.errors import InputError

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
            text = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template is a program of anybody's making
            reason = str(error).strip() or type(error).__name__
            raise InputError(f"its chat template cannot be rendered ({reason})") from error
        for message in conversation:
            if message["content"] not in text:
                raise InputError(
                    f"its chat template does not render the {message['role']}'s message "
                    f"{message['content']!r} as it is, but {text[:200]!r}"
                )
