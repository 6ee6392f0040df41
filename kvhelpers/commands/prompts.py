"""The prompts of finished results, made again without a model, where tokenizer and data are here."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from kvhelpers.errors import InputError
from kvhelpers.experiment.results import ConditionResult
from kvhelpers.experiment.run import problems_of, prompts_with
from kvhelpers.models.load import load_tokenizer
from kvhelpers.models.source import model_source
from kvhelpers.tasks.prompts import Prompt, read_template


class Tokenizers:
    """The tokenizers of models that are on this machine, by their source."""

    def __init__(self) -> None:
        self._by_source: dict[str, PreTrainedTokenizerBase | None] = {}

    def of(self, result: ConditionResult) -> PreTrainedTokenizerBase | None:
        """The result's tokenizer; None if its model is not here."""
        source = result.identity.get("model_source")
        if source not in self._by_source:
            self._by_source[source] = self._load(result.condition.model, source)
        return self._by_source[source]

    @staticmethod
    def _load(model: str, source: str) -> PreTrainedTokenizerBase | None:
        try:
            return load_tokenizer(model, here=True) if model_source(model) == source else None
        except InputError:
            return None


def prompts_again(
    result: ConditionResult, tokenizer: PreTrainedTokenizerBase | None, date: str | None = None
) -> list[Prompt] | None:
    """The prompts of a result, with the chat template's day or another ``date``; None where they cannot be
    made again, for want of the tokenizer, the task's data or the prompt template.

    Raises
    ------
    InputError : the chat template does not take them any more.
    """
    condition = result.condition.model_copy(update={"template_date": date} if date else {})
    try:
        problems_of(condition)
        if condition.prompt_template is not None:
            read_template(condition.prompt_template)
    except InputError:
        return None
    return None if tokenizer is None else prompts_with(condition, tokenizer)
