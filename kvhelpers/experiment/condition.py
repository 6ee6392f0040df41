"""What one condition of an experiment is: a press at a ratio or budget, on a model and a task.

Parameters are checked here as far as that needs no torch; `identity.check_here` does the rest.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from kvhelpers import own
from kvhelpers.errors import InputError, check_text, shown, unknown_name, without_repeats
from kvhelpers.experiment.plain import check_plain
from kvhelpers.models.source import ATTENTION, DEVICES, DTYPES, model_source
from kvhelpers.presses.cache_formats import CacheFormats
from kvhelpers.presses.registry import DECODING, NONE
from kvhelpers.presses.spec import PressSpec, described, with_hashes
from kvhelpers.tasks.chat import TEMPLATE_DATE
from kvhelpers.tasks.harness import PREFIX as HARNESS
from kvhelpers.tasks.load import check_data, check_task, data_fingerprint, stop_strings
from kvhelpers.tasks.load import is_own as is_own_task
from kvhelpers.tasks.prompts import (
    COMPRESS,
    CONTEXT,
    POSITIONS,
    PROMPT,
    check_compress,
    check_position,
    read_template,
)

EXPERIMENT_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
LONGEST_NAME = 160  # characters of an experiment's name: files are called after it, with up to 95 bytes more
LONGEST_STEM = 200  # likewise of a condition's files
SCRATCH = "scratch"  # the experiment of a condition that names none
DEFAULT_RATIO = 0.875
PRESS_KEYS = ("press", "ratio", "budget", "press_kwargs")
CACHE_KEYS = ("cache_type_k", "cache_type_v", "cache_kwargs")
SETTING_KEYS = ("question_position", "examples_seed", "compress")  # how the prompts are made and compressed
GRID_KEYS = (*PRESS_KEYS, *CACHE_KEYS, *SETTING_KEYS)


def _from_json(value: Any) -> Any:
    """Take JSON text too: that is what ``papermill -p press_kwargs '{...}'`` passes on."""
    if isinstance(value, str):
        try:
            return json.loads(value or "{}", object_pairs_hook=without_repeats)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"is no JSON ({error})") from error
    return value


class Condition(BaseModel):
    """All parameters of a condition; the parameters cell of notebook 01 has the same names.

    ``ratio`` None means .875 for a press that compresses, unless ``budget`` is given, and 0 for ``none``.
    ``prompt_template`` is a file that makes the one message (`tasks.prompts.one_message`), and
    ``question_position`` and ``compress`` are explained in `tasks.prompts.build_prompts` (``ratio`` and
    ``budget`` are of what is compressed); ``examples_file``, ``shuffle`` and
    ``examples_seed`` in `tasks.load.load_problems`, ``template_date`` and ``chat_template_kwargs`` in
    `tasks.chat.render`. ``cache_type_k``, ``cache_type_v`` and ``cache_kwargs`` are the formats in which keys
    and values are held (`presses.cache_formats`). ``stop_strings`` None are the task's.
    ``think_tags`` open and close thoughts; None: the ones that the chat template names (`tasks.thinking`).
    ``batch_size`` ``auto`` follows free memory; in float32 the tokens do not
    depend on it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    experiment: str = Field(default=SCRATCH, pattern=EXPERIMENT_NAME)
    model: str = Field(default="smollm2-135m", min_length=1)
    task: str = "onestep"
    task_kwargs: Annotated[dict[str, Any], BeforeValidator(_from_json)] = {}
    data_file: str | None = Field(default=None, min_length=1)
    press: str = "streaming_llm"
    ratio: float | None = Field(default=None, ge=0, lt=1)
    press_kwargs: Annotated[dict[str, Any], BeforeValidator(_from_json)] = {}
    budget: int | None = Field(default=None, ge=1)
    cache_type_k: str = NONE
    cache_type_v: str = NONE
    cache_kwargs: Annotated[dict[str, Any], BeforeValidator(_from_json)] = {}
    n_prompts: int = Field(default=20, ge=1)
    n_fewshot: int = Field(default=4, ge=0)
    multiturn: bool = True
    prompt_template: str | None = Field(default=None, min_length=1)
    examples_file: str | None = Field(default=None, min_length=1)
    shuffle: bool = True
    stop_strings: Annotated[list[str] | None, BeforeValidator(_from_json)] = None
    question_position: Literal[*POSITIONS] = "last"
    compress: Literal[*COMPRESS] = PROMPT
    examples_seed: int | None = Field(default=None, ge=0)
    template_date: str = TEMPLATE_DATE
    chat_template_kwargs: Annotated[dict[str, Any], BeforeValidator(_from_json)] = {}
    think_tags: Annotated[list[str] | None, BeforeValidator(_from_json)] = None
    max_new_tokens: int = Field(default=256, ge=1)
    seed: int = Field(default=42, ge=0)
    repetition_penalty: float = Field(default=1.0, gt=0)
    timeout_s: float | None = Field(default=None, gt=0)
    canary_tokens: int = Field(default=0, ge=0)
    batch_size: int | Literal["auto"] = "auto"
    device: str = "auto"
    dtype: str = "auto"
    attn: Literal["auto", *ATTENTION] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _fill_ratio(cls, values: dict[str, Any]) -> dict[str, Any]:
        if values.get("ratio") is None:
            unset = None if values.get("budget") is not None else DEFAULT_RATIO
            values = values | {"ratio": 0.0 if values.get("press") in (NONE, DECODING) else unset}
        return values

    @field_validator("ratio")
    @classmethod
    def _without_minus(cls, ratio: float | None) -> float | None:
        return None if ratio is None else abs(ratio)  # -0.0 is 0

    @field_validator("template_date")
    @classmethod
    def _is_date(cls, date: str) -> str:
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", date):
            raise ValueError("a date is written as 2025-01-31")
        return datetime.date.fromisoformat(date).isoformat()

    @field_validator("think_tags")
    @classmethod
    def _are_tags(cls, tags: list[str] | None) -> list[str] | None:
        if tags is not None and (len(tags) != 2 or tags[0] in tags[1] or tags[1] in tags[0]):
            raise ValueError("they are two texts, neither of them within the other, or null")
        return tags

    @field_validator("stop_strings")
    @classmethod
    def _are_texts(cls, strings: list[str] | None) -> list[str] | None:
        if strings is not None and not all(strings):
            raise ValueError("an empty text would end every answer at once; [] is none")
        return strings

    @property
    def ends(self) -> tuple[str, ...]:
        """The texts of which the first ends an answer."""
        own = self.stop_strings
        return stop_strings(self.task, self.task_kwargs) if own is None else tuple(own)

    @property
    def press_spec(self) -> PressSpec:
        return PressSpec(self.press, self.ratio, self.budget, self.press_kwargs)

    @property
    def cache_formats(self) -> CacheFormats:
        """The formats in which keys and values are held. Raises InputError as `CacheFormats.of`."""
        return CacheFormats.of(self.cache_type_k, self.cache_type_v, self.cache_kwargs)

    @property
    def is_quantized(self) -> bool:
        """Whether keys or values are held in a format of their own."""
        return (self.cache_type_k, self.cache_type_v) != (NONE, NONE)

    @property
    def asked_attention(self) -> str:
        """The attention implementation asked for, or what the press needs; ``auto`` is left to the model
        (`models.load.prefill_attention`).
        """
        return "eager" if self.press_spec.attention() == "eager" else self.attn

    @property
    def prefill_attention(self) -> str:
        """`asked_attention`, where ``auto`` is what it means for most models."""
        return "sdpa" if self.asked_attention == "auto" else self.asked_attention

    @property
    def is_baseline(self) -> bool:
        """Whether nothing is compressed."""
        return self.press == NONE and not self.is_quantized

    def uncompressed(self) -> Condition:
        """The same condition without a press, its cache held in full."""
        bare = {"press": NONE, "ratio": 0.0, "budget": None, "press_kwargs": {}}
        in_full = {"cache_type_k": NONE, "cache_type_v": NONE, "cache_kwargs": {}}
        return self.model_copy(update=bare | in_full)

    @property
    def amount(self) -> str:
        """The ratio or the budget for people."""
        return _ratio_text(self.ratio) if self.budget is None else f"budget {self.budget}"

    def stem(self) -> str:
        """File name of the condition's results: ``<model>_<ratio>_<n>p``, with a budget, press_kwargs and
        formats spelt out; the end of a long one is replaced by a hash of the whole.
        """
        amount = _ratio_text(self.ratio) if self.budget is None else f"b{self.budget}"
        extra = json.dumps(self.press_kwargs, sort_keys=True) if self.press_kwargs else ""
        model = self.model.rstrip("/").removesuffix(".gguf").rsplit("/", 1)[-1]
        parts = [
            model.lstrip("."),
            amount,
            f"{self.n_prompts}p",
            extra,
            self.cache,
            self.setting,
        ]  # a hidden file is no result
        stem = "_".join(filter(None, (re.sub(r"[^A-Za-z0-9.-]+", "-", part).strip("-") for part in parts)))
        if len(stem) <= LONGEST_STEM:
            return stem
        digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
        return f"{stem[: LONGEST_STEM - len(digest) - 1]}-{digest}"

    @property
    def cache(self) -> str:
        """For people, the formats in which the cache is held; empty where it is held in full."""
        types = {"K": self.cache_type_k, "V": self.cache_type_v}
        named = [f"{part} {name}" for part, name in types.items() if name != NONE]
        return ", ".join(filter(None, (*named, kwargs_text(dict(sorted(self.cache_kwargs.items()))))))

    @property
    def setting(self) -> str:
        """For people, how the prompts, or what is compressed of them, differ from usual ones; empty where
        they do not.
        """
        first = "question first" if self.question_position == "first" else ""
        examples = "" if self.examples_seed is None else f"examples {self.examples_seed}"
        compressed = "compress context" if self.compress == CONTEXT else ""
        return ", ".join(filter(None, (first, examples, compressed)))

    @property
    def fields(self) -> str:
        """For people, what tells conditions of one press and amount apart: its own fields, the cache's
        formats and the setting.
        """
        return ", ".join(filter(None, (kwargs_text(self.press_kwargs), self.cache, self.setting)))

    def label(self) -> str:
        """Short name for people."""
        name = NONE if self.press == NONE else f"{own.short(self.press)} {self.amount}"
        return name + (f" ({self.fields})" if self.fields else "")


def kwargs_text(kwargs: dict[str, Any]) -> str:
    """A press's own fields for people: ``window_size=16``; a press among them by its name, with its own
    fields in brackets.
    """

    def text(key: str, value: Any) -> str:
        if not (isinstance(value, dict) and "name" in value):
            return f"{key}={value}"
        own = kwargs_text({name: inner for name, inner in value.items() if name != "name"})
        return f"{value['name']}" + (f" ({own})" if own else "")

    return ", ".join(text(key, value) for key, value in kwargs.items())


def _ratio_text(ratio: float) -> str:
    """A ratio in six digits, or in all of its digits where it has more."""
    short = f"{ratio:g}"
    return short if float(short) == ratio else repr(ratio)


def check_name(name: object) -> None:
    """Raise InputError unless an experiment can have this name."""
    check_text("experiment", name)
    if not isinstance(name, str) or not re.fullmatch(EXPERIMENT_NAME, name) or len(name) > LONGEST_NAME:
        raise InputError(
            f"experiment {shown(name)} is not allowed: a name has letters, digits, '.', '_' and '-', begins "
            f"with a letter or a digit, and has at most {LONGEST_NAME} characters"
        )


def build_condition(values: dict[str, Any]) -> Condition:
    """Build a condition whose parameters have the right types and lie in their ranges; `make_condition`
    checks more.

    Raises
    ------
    InputError : one sentence about the first parameter that does not.
    """
    try:
        return Condition(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "parameters"
        raise InputError(f"{name} {shown(first['input'])} is not allowed: {first['msg']}") from error


def make_condition(values: dict[str, Any]) -> Condition:
    """Check parameters and build a condition. ``press`` may be a name, or a class or an instance of a press.

    Raises
    ------
    InputError : one sentence about the first parameter that is unknown, of a wrong type or out of range, or
        about a press, task, device, dtype, model or data file that does not exist.
    """
    values = _with_press(values)
    for name in values:
        if name not in Condition.model_fields:
            raise unknown_name("parameter", name, Condition.model_fields)
    if (ratio := values.get("ratio")) is not None and type(ratio) in (int, float) and not 0 <= ratio < 1:
        raise InputError(f"ratio {ratio} is outside [0, 1); it is the fraction of the prompt's cache removed")
    for name, value in values.items():
        check_plain(value, name)
        if Condition.model_fields[name].annotation in (str, str | None):
            check_text(name, value)
    check_name(values.get("experiment", SCRATCH))
    batch_size = values.get("batch_size", "auto")
    if batch_size != "auto" and (type(batch_size) is not int or batch_size < 1):
        raise InputError(
            f"batch_size {shown(batch_size)} is not allowed: give a whole number of prompts from 1 on, or "
            "'auto'"
        )
    condition = _with_hashes(build_condition(values))
    for name in (
        "press_kwargs",
        "cache_kwargs",
        "task_kwargs",
        "chat_template_kwargs",
        "think_tags",
        "stop_strings",
    ):  # they may have come as JSON text
        check_plain(getattr(condition, name), name)
    condition.press_spec.check()
    CacheFormats.of(condition.cache_type_k, condition.cache_type_v, condition.cache_kwargs)
    needed = condition.press_spec.attention()
    if needed == "eager" and condition.attn not in ("auto", needed):
        raise InputError(
            f"attn {condition.attn!r} does not fit {condition.press!r}, which reads attention weights: "
            "use 'eager'"
        )
    check_task(condition.task, condition.data_file, condition.task_kwargs)
    check_data(condition.data_file, condition.examples_file, condition.shuffle, condition.examples_seed)
    check_position(condition.question_position, condition.multiturn)
    n_fewshot = condition.n_fewshot if condition.prompt_template is None else None
    check_compress(condition.compress, condition.multiturn, condition.question_position, n_fewshot)
    if condition.is_quantized and condition.compress == CONTEXT:
        raise InputError(f"cache_type is not supported with compress {CONTEXT!r}; use compress {PROMPT!r}")
    check_template(condition)
    for name, allowed in (("device", DEVICES), ("dtype", DTYPES)):
        if (value := getattr(condition, name)) not in ("auto", *allowed):
            raise unknown_name(name, value, ("auto", *allowed))
    try:
        model_source(condition.model)
    except OSError as error:
        raise InputError(f"model {shown(condition.model)} cannot be read: {error.strerror}") from error
    data_fingerprint(condition.task, condition.data_file)
    if condition.examples_file is not None:
        data_fingerprint(condition.task, condition.examples_file)
    return condition


def _with_press(values: dict[str, Any]) -> dict[str, Any]:
    """The values with a name and fields in place of a press that is given itself."""
    if isinstance(press := values.get("press", ""), str | int | float | list | dict | None):
        return values
    found = described(press)
    ratio = found.pop("ratio", None)
    if found.get("press_kwargs") and values.get("press_kwargs"):
        raise InputError("press_kwargs make no sense with a press that is given itself; set its own fields")
    asked = values.get("ratio")
    if ratio and (values.get("budget") is not None or asked not in (None, ratio)):
        raise InputError(f"ratio {asked} does not fit the press given, which has {ratio}; set one of them")
    if asked is None and values.get("budget") is None and ratio is not None:
        found["ratio"] = ratio
    return {**values, **found}


def _with_hashes(condition: Condition) -> Condition:
    """The condition with hashes of the code of one's own that it names."""
    press, kwargs = with_hashes(condition.press, condition.press_kwargs)
    task = own.with_hash("task", condition.task) if is_own_task(condition.task) else condition.task
    return condition.model_copy(update={"press": press, "press_kwargs": kwargs, "task": task})


def check_template(condition: Condition) -> None:
    """Raise InputError for a prompt template that cannot be read, or that does not make the whole prompt."""
    if condition.prompt_template is None:
        return
    given = {"multiturn": condition.multiturn, "question_position": condition.question_position}
    for name, needed in (("multiturn", False), ("question_position", "last")):
        if given[name] != needed:
            raise InputError(
                f"{name} {given[name]!r} does not fit prompt_template, which makes one message of all: "
                f"use {needed!r}"
            )
    if condition.task.startswith(HARNESS):
        raise InputError(
            f"prompt_template is not allowed with {condition.task!r}, which makes its prompts itself"
        )
    read_template(condition.prompt_template)
