"""A model of lm-evaluation-harness that answers from compressed caches."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from tqdm import tqdm

from kvhelpers.errors import InputError, shown
from kvhelpers.experiment.condition import Condition, make_condition
from kvhelpers.experiment.identity import check_here
from kvhelpers.experiment.plain import plain_hash
from kvhelpers.experiment.run import answer_text, generate_prompts, load_for, rows_together, tags_of
from kvhelpers.records import StopReason
from kvhelpers.tasks.chat import check_template_kwargs, checked_text
from kvhelpers.tasks.harness import PREFIX, REQUESTS, UNTIL
from kvhelpers.tasks.prompts import PROMPT, Prompt
from kvhelpers.tasks.thinking import Tags

MAX_NEW_TOKENS = 256  # where a task names no limit, as in the harness's own model
# of a task's generation_kwargs, what has no effect on greedy decoding
NO_EFFECT = {"do_sample", "temperature", "top_p", "top_k", "min_p"}
KNOWN = {"until", "max_gen_toks", "repetition_penalty"} | NO_EFFECT


@dataclass(frozen=True)
class Decoding:
    """How a task wants its answers: the texts that end one, and the limit on new tokens."""

    until: tuple[str, ...]
    max_new_tokens: int
    repetition_penalty: float

    @classmethod
    def of(cls, task: str, kwargs: dict[str, Any]) -> Decoding:
        """Read a request's ``generation_kwargs``.

        Raises
        ------
        InputError : the task samples, or asks for something that is not known here.
        """
        given = normalize_gen_kwargs(kwargs, MAX_NEW_TOKENS)
        if given.get("do_sample"):
            raise InputError(
                f"task {task!r} samples its answers, and here decoding is greedy; give "
                "--gen-kwargs do_sample=false,temperature=0"
            )
        if unknown := sorted(set(given) - KNOWN):
            raise InputError(
                f"task {task!r}: generation_kwargs {unknown[0]} {shown(given[unknown[0]])} is not supported "
                f"(allowed: {', '.join(sorted(KNOWN))})"
            )
        until = tuple(filter(None, given["until"]))
        return cls(until, given["max_gen_toks"], float(given.get("repetition_penalty", 1.0)))


def refuse_context(compress: object) -> None:
    """Raise InputError unless whole prompts are compressed."""
    if compress not in (None, PROMPT):
        raise InputError(
            f"compress {shown(compress)} is not allowed with tasks of lm-evaluation-harness, whose requests "
            f"do not say where their question begins; use {PROMPT!r}"
        )


@register_model("kvhelpers")
class CompressedLM(LM):
    """A model whose ``generate_until`` runs prompts in exact batches from compressed caches.

    Parameters
    ----------
    model, press, ratio, budget, press_kwargs, cache_type_k, cache_type_v, cache_kwargs, seed, timeout_s,
    device, dtype, chat_template_kwargs, template_date, think_tags : as in
        `experiment.condition.Condition`.
    batch_size : prompts decoded together, or ``auto``.
    max_batch_size : taken for the harness's sake; ``auto`` finds its own.
    compress : ``prompt`` only; a request does not say where its question begins.

    Raises
    ------
    InputError : one sentence about a parameter that is not allowed, or a model that cannot be loaded.
    """

    def __init__(
        self,
        model: str = Condition.model_fields["model"].default,
        press: str = Condition.model_fields["press"].default,
        ratio: float | None = None,
        budget: int | None = None,
        press_kwargs: dict[str, Any] | str | None = None,
        cache_type_k: str = Condition.model_fields["cache_type_k"].default,
        cache_type_v: str = Condition.model_fields["cache_type_v"].default,
        cache_kwargs: dict[str, Any] | str | None = None,
        seed: int = Condition.model_fields["seed"].default,
        timeout_s: float | None = None,
        batch_size: int | str = "auto",
        max_batch_size: int | None = None,
        device: str | None = None,
        dtype: str = "auto",
        chat_template_kwargs: dict[str, Any] | str | None = None,
        template_date: str = Condition.model_fields["template_date"].default,
        think_tags: list[str] | str | None = None,
        compress: str = PROMPT,
    ):
        super().__init__()
        refuse_context(compress)
        self._turn: str | None = None
        text = str(batch_size)
        self.parameters = {
            "model": model,
            "press": press,
            "ratio": ratio,
            "budget": budget,
            "press_kwargs": press_kwargs or {},
            "cache_type_k": cache_type_k,
            "cache_type_v": cache_type_v,
            "cache_kwargs": cache_kwargs or {},
            "seed": seed,
            "timeout_s": timeout_s,
            "batch_size": int(text) if text.isdecimal() else batch_size,
            "device": device or "auto",
            "dtype": dtype,
            "chat_template_kwargs": chat_template_kwargs or {},
            "template_date": template_date,
            "think_tags": think_tags,
        }
        self.condition = check_here(make_condition(self.parameters))
        self.lm = load_for(self.condition)
        check_template_kwargs(self.lm.tokenizer, self.condition.chat_template_kwargs)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The answers, behind a thinking model's thoughts, cut where the first of the task's stop texts
        begins.
        """
        by_task: dict[str, list[Instance]] = {}
        for request in requests:
            by_task.setdefault(request.task_name, []).append(request)
        answers: dict[tuple, str] = {}
        for task, asked in by_task.items():
            distinct = list({_key(request): request for request in asked}.values())
            answers |= self._answers(task, distinct, disable_tqdm)
        texts = [answers[_key(request)] for request in requests]
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return texts

    def _answers(self, task: str, requests: list[Instance], disable_tqdm: bool) -> dict[tuple, str]:
        """The answers to a task's requests, which all ask for the same decoding."""
        decoding = Decoding.of(task, requests[0].args[1])
        for request in requests:
            if Decoding.of(task, request.args[1]) != decoding:
                raise InputError(
                    f"task {task!r} asks for other generation_kwargs in some of its requests; that is not "
                    "supported"
                )
        prompts = [self.prompt(request) for request in requests]
        condition = check_here(make_condition(self.values(task, prompts, decoding)))
        with tqdm(total=len(prompts), desc=condition.label(), unit="prompt", disable=disable_tqdm) as bar:
            texts = self.run(condition, prompts, bar)
        keys = map(_key, requests)
        tags = tags_of(condition, self.lm)
        return {key: _answer(text, tags, decoding.until) for key, text in zip(keys, texts, strict=True)}

    def prompt(self, request: Instance) -> Prompt:
        """A request as a prompt; its question and its right answer are not known."""
        task, document, place = _key(request)
        token_ids = self.tok_encode(request.args[0])
        name, opening = f"{task}/{document}" + (f"/{place}" if place else ""), self._opening(request.args[0])
        return Prompt(name, "", "", [], token_ids, opening)

    def _opening(self, text: str) -> str:
        """What opens the answer's turn at the end of a prompt that a chat template made; else nothing."""
        if self._turn is None:
            asked = {"role": "user", "content": "2 + 2?"}
            try:
                self._turn = self.apply_chat_template([asked]).rpartition(asked["content"])[2]
            except InputError:
                self._turn = ""
        start = text.rfind(self._turn) if self._turn else -1
        return text[start:] if start >= 0 else ""

    def values(self, task: str, prompts: Sequence[Prompt], decoding: Decoding) -> dict[str, Any]:
        """The parameters of the condition that some prompts of a task are."""
        asked = [[prompt.id, prompt.question, prompt.reference, prompt.token_ids] for prompt in prompts]
        return self.parameters | {
            "task": f"{PREFIX}{task}",
            "task_kwargs": {REQUESTS: plain_hash(asked), UNTIL: list(decoding.until)},
            "n_prompts": len(prompts),
            "max_new_tokens": decoding.max_new_tokens,
            "repetition_penalty": decoding.repetition_penalty,
        }

    def run(self, condition: Condition, prompts: list[Prompt], bar: tqdm) -> list[str]:
        """The prompts' texts; ``bar`` counts the runs that have ended."""
        texts, batch_size = [""] * len(prompts), rows_together(condition, self.lm, prompts)
        for run in generate_prompts(condition, self.lm, prompts, batch_size):
            if run.stop_reason == StopReason.ERROR:
                warnings.warn(f"{prompts[run.index].id} ended in an error: {run.error}", stacklevel=2)
            texts[run.index] = answer_text(run.token_ids, self.lm)
            bar.update()
        return texts

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Refused."""
        raise _generates_only(requests)

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Refused."""
        raise _generates_only(requests)

    def tok_encode(self, text: str) -> list[int]:
        """A prompt's token ids, as the harness's own model gives them: with the tokenizer's usual special
        tokens, unless the text begins with the first one.
        """
        first = self.lm.tokenizer.bos_token
        has_it = first is not None and text.startswith(first)
        return self.lm.tokenizer.encode(text, **({"add_special_tokens": False} if has_it else {}))

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The chat as text; without ``add_generation_prompt`` the last message is to be gone on with.

        Raises
        ------
        InputError : the template refuses it, such as a system instruction, or alters a message. White space
            around one, which many templates strip, is not looked at.
        """
        return checked_text(
            self.lm.tokenizer,
            chat_history,
            f"a prompt for model {self.lm.name!r}",
            self.condition.template_date,
            self.condition.chat_template_kwargs,
            strip=True,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The model's template, which the harness notes; others by name are refused."""
        if isinstance(chat_template, str):
            raise InputError(
                f"apply_chat_template {chat_template!r} is not allowed; it is true (the model's own) or false"
            )
        return self.lm.tokenizer.chat_template if chat_template else None

    @property
    def tokenizer_name(self) -> str:
        """Whose prompts these are, where the harness keeps them."""
        return self.lm.source.replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """What the harness notes beside its results."""
        return {**self.parameters, "model_source": self.lm.source, "model_dtype": self.lm.dtype}


def _key(request: Instance) -> tuple[str, int, int]:
    return request.task_name, request.doc_id, request.idx


def _answer(text: str, tags: Tags | None, until: Sequence[str]) -> str:
    """A run's answer, cut as the harness's own models cut theirs (its ``think_end_token``): what stands
    behind the last closing tag, or the whole text where there is none.
    """
    if tags is not None:
        text = text.rpartition(tags[1])[2].lstrip()
    for stop in until:
        text = text.partition(stop)[0]
    return text


def _generates_only(requests: Sequence[Instance]) -> InputError:
    tasks = ", ".join(sorted({str(request.task_name) for request in requests}))
    return InputError(
        f"task {tasks} asks for loglikelihoods, which are refused: only generated answers are run under a "
        "press; choose a task with output_type generate_until"
    )
