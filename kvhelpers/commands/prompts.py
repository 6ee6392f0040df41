"""The prompts of finished results, made again without a model, where tokenizer and data are here."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from kvhelpers.errors import InputError
from kvhelpers.experiment.condition import PRESS_KEYS
from kvhelpers.experiment.results import ConditionResult
from kvhelpers.experiment.run import problems_of, prompts_with
from kvhelpers.models.load import load_tokenizer
from kvhelpers.models.source import model_source
from kvhelpers.tasks.prompts import Prompt, read_template


class PromptsAgain:
    """The tokenizers of models that are on this machine, by their source, and the prompts made with them:
    conditions that differ in their press only have the same.
    """

    def __init__(self) -> None:
        self._by_source: dict[str, PreTrainedTokenizerBase | None] = {}
        self._made: dict[tuple[str, str], list[Prompt]] = {}

    def tokenizer(self, result: ConditionResult) -> PreTrainedTokenizerBase | None:
        """The result's tokenizer; None if its model is not here."""
        source = result.identity.get("model_source")
        if source not in self._by_source:
            self._by_source[source] = self._load(result.condition.model, source)
        return self._by_source[source]

    def of(self, result: ConditionResult, date: str | None = None) -> list[Prompt] | None:
        """The prompts of a result, with the chat template's day or another ``date``; None where they cannot
        be made again, for want of the tokenizer, the task's data or the prompt template.

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
        tokenizer = self.tokenizer(result)
        if tokenizer is None:
            return None
        key = result.identity["model_source"], condition.model_dump_json(exclude=set(PRESS_KEYS))
        if key not in self._made:
            self._made[key] = prompts_with(condition, tokenizer)
        return self._made[key]

    @staticmethod
    def _load(model: str, source: str) -> PreTrainedTokenizerBase | None:
        try:
            return load_tokenizer(model, here=True) if model_source(model) == source else None
        except InputError:
            return None
