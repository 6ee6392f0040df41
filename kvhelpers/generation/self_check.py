"""Whether a model's batched runs are what the model computes: checked by computing, before anything runs.

Architectures have rules of their own: caps and sinks in attention, windows, positions that change with
length. The reference knows them all: a pass over the whole text without any cache under eager attention,
which is the architecture's own code. Four texts of different lengths are prefilled together and decoded in a
batch, with right and wrong drafts, and their logits compared with it. With a press the reference is each of
two texts alone, token by token, inside ``with press(model):``; tokens that are fed together are then what a
question is to a compressed context. A model with a sliding window is checked with
a smaller one, so that the texts reach beyond it. A model in half precision, whose rounding could hide a rule
of small effect, is checked with its weights in float32 first, and then as it is.

The outcome is kept in the cache folder by what it depends on: model, number format, attention, package
versions, and the code here.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import sys
import warnings
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import kvpress
import psutil
import torch
from transformers import DynamicCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from kvhelpers.errors import InputError, is_out_of_memory
from kvhelpers.generation.attention import attention_implementation
from kvhelpers.generation.batched_cache import BatchedCache, sliding_windows
from kvhelpers.generation.cuda_graphs import recorder_for
from kvhelpers.generation.limits import WINDOW, attention_modules, compressed_window, length_switch
from kvhelpers.generation.prefill import Prefilled, Prefiller
from kvhelpers.generation.requests import Request
from kvhelpers.models.load import LanguageModel, prefill_attention
from kvhelpers.paths import cache_dir, write_atomic
from kvhelpers.presses.spec import PressSpec
from kvhelpers.records import SelfCheck

BEGINNING, ENDINGS, NEW = 16, (2, 5, 9, 14), 10  # tokens of the texts: in common, of each, to decode
# by pass and text: how many right tokens it is fed, and how many wrong ones after them
FED = (
    ((1, 0), (1, 0), (1, 0), (1, 0)),
    ((4, 0), (1, 0), (2, 2), (1, 0)),
    ((3, 0), (4, 0), (3, 1), (2, 1)),
    ((1, 0), (1, 0), (1, 0), (1, 0)),
)
PRESS = PressSpec("streaming_llm", 0.5)  # it chooses by position, so that rounding cannot choose otherwise
UNMASKED = "kvhelpers_unmasked"
PRESSED = 2  # texts that are decoded alone under it
NEVER = 5e3  # below the largest logit: a token of a padded vocabulary
# largest deviation of a logit, as a share of the range of the logits. Half precision rounds differently in
# every order of summation: SmolLM2-135M deviates by .022 in bfloat16 and by .0023 in float16.
BOUNDS = {"float64": 1e-4, "float32": 1e-4, "float16": 0.008, "bfloat16": 0.1}
COARSE = dict.fromkeys(("float16", "bfloat16"), ", or its rounding is that coarse, which float32 would tell")
HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}
SUPPORTED = (
    "supported are architectures whose layers keep keys and values alone and compute attention through "
    "transformers' attention interface, such as Llama, Mistral, Qwen 2 and 3, Phi 3, Gemma 2 and 3, gpt-oss"
)
_known: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # model → key → outcome, of this process


def check_model(lm: LanguageModel, pressed: bool = False) -> SelfCheck:
    """Check that a model's batched runs are exact, unless that is known; ``pressed`` is whether under a press
    too.

    Raises
    ------
    InputError : they are not, or the model cannot be run so; in a sentence.
    """
    known = _known.setdefault(lm.model, {})
    if (lm.attn, lm.dtype, pressed) not in known:
        known[lm.attn, lm.dtype, pressed] = _remembered(lm, pressed)
    return known[lm.attn, lm.dtype, pressed]


def _remembered(lm: LanguageModel, pressed: bool) -> SelfCheck:
    if ":" not in lm.source:  # weights that nobody can tell from others
        return _computed(lm, pressed)
    path = cache_dir() / "self-checks" / f"{_key(lm, pressed)}.json"
    try:
        return SelfCheck.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        outcome = _computed(lm, pressed)
    if lm.dtype in HALF and outcome.exact_deviation is None:
        return outcome  # another time there may be memory for the whole check
    with suppress(OSError):  # a cache folder that cannot be written to costs time only
        write_atomic(path, lambda temporary: temporary.write_text(outcome.model_dump_json() + "\n"))
    return outcome


def _key(lm: LanguageModel, pressed: bool) -> str:
    packages = [importlib.metadata.version(name) for name in ("torch", "transformers", "kvpress")]
    made_of = [lm.source, type(lm.model).__name__, lm.model.config.to_json_string(), lm.dtype, lm.device]
    whole = [*made_of, lm.attn, lm.packed is not None, pressed, *packages, code_hash()]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()


@cache
def code_hash() -> str:
    """Hex SHA-256 of the code that generates."""
    here = Path(__file__).parent
    files = [*sorted(here.glob("*.py")), here.parent / "models" / "packed.py"]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()


def _computed(lm: LanguageModel, pressed: bool) -> SelfCheck:
    look = (_pressed_logits, "under a press") if pressed else (_plain_logits, "")
    deviation = check_model(lm).deviation if pressed else 0.0
    prefill_attention(lm.model, lm.attn)  # refuses sdpa where it leaves out a rule
    exact = _exact_deviation(lm, *look) if lm.dtype in HALF else None
    deviation = max(deviation, _deviation(lm, *look))
    return SelfCheck(
        attn=lm.attn, pressed=pressed, deviation=deviation, bound=BOUNDS[lm.dtype], exact_deviation=exact
    )


def _exact_deviation(lm: LanguageModel, logits_of, under: str) -> float | None:
    """The largest deviation with the weights in float32, if it is within its bound; None, with a warning,
    where they do not fit into memory.
    """
    try:
        if lm.device == "cpu" and 2 * sum(map(torch.numel, _half(lm))) > psutil.virtual_memory().available:
            raise MemoryError
        with _in_float32(lm) as exact:
            return _deviation(exact, logits_of, under)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    warnings.warn(
        f"model {lm.name!r} could not be checked with its weights in float32 for want of memory; in "
        f"{lm.dtype} alone a rule of small effect can be missed",
        stacklevel=2,
    )
    return None


def _half(lm: LanguageModel) -> list[torch.Tensor]:
    tensors = (*lm.model.parameters(), *lm.model.buffers())
    return [tensor for tensor in tensors if tensor.dtype == HALF[lm.dtype]]


@contextmanager
def _in_float32(lm: LanguageModel) -> Iterator[LanguageModel]:
    """The model with its weights in float32, which changes none of them, inside the context. It takes twice
    their memory.
    """
    half = _half(lm)
    try:
        for tensor in half:
            tensor.data = tensor.data.float()
        yield replace(lm, dtype="float32")
    finally:
        for tensor in half:
            tensor.data = tensor.data.to(HALF[lm.dtype])


def _deviation(lm: LanguageModel, logits_of, under: str = "") -> float:
    """The largest deviation, if it is within its bound."""
    name, error = type(lm.model).__name__, None
    refused = f"model {lm.name!r} is not supported{under and ' ' + under}"
    supported = f"press 'none' is supported on it; {SUPPORTED}" if under else SUPPORTED
    if getattr(lm.model, "_is_stateful", False):
        raise InputError(
            f"{refused}: {name} has layers with a recurrent state besides keys and values; {supported}"
        )
    try:
        pairs = logits_of(lm)
    except Exception as caught:  # an architecture may fail in any way on what it was not made for
        if is_out_of_memory(caught):
            raise
        error = str(caught) if isinstance(caught, InputError) else f"{type(caught).__name__}: {caught}"
    if error is not None:
        reason = " ".join(error.split())[:300] or "no message"
        raise InputError(f"{refused}: a check of {name} in a batch fails ({reason}); {supported}")
    deviation, bound = _largest(pairs), BOUNDS[lm.dtype]
    if not deviation <= bound:  # NaN too
        raise InputError(
            f"{refused}: logits of {name} in a batch, prefilled under attn {lm.attn!r}, differ from its own "
            f"by {deviation:.2g} of their range, where {bound:g} is allowed in {lm.dtype}; it has a rule "
            f"that is not known here{COARSE.get(lm.dtype, '')}; {supported}"
        )
    return deviation


Pairs = list[tuple[torch.Tensor, torch.Tensor]]


def _largest(pairs: Pairs) -> float:
    """The largest deviation as a share of the logits' range. Tokens that a model never gives, by -inf or a
    very low logit, have no part in either; they must be the same tokens.
    """
    got, expected = (torch.cat(each) for each in zip(*pairs, strict=True))
    if got.isnan().any() or expected.isnan().any():
        return torch.nan
    given, wanted = (logits > logits.amax(-1, keepdim=True) - NEVER for logits in (got, expected))
    if not torch.equal(given, wanted):
        return torch.inf
    got, expected = got[wanted], expected[wanted]
    return float((got - expected).abs().max() / (expected.max() - expected.min()))


@torch.inference_mode()
def _plain_logits(lm: LanguageModel) -> Pairs:
    """Logits without a press, ours and the reference's, text by text."""
    with _small_windows(lm):
        texts, prompts = _texts(lm, length_switch(lm.model)[0])
        ours = _batched(lm, texts, prompts, None)
        rows = zip(ours, texts, prompts, strict=True)
        return [(logits, _whole(lm, text, prompt, prompt - 1 + len(logits))) for logits, text, prompt in rows]


@torch.inference_mode()
def _pressed_logits(lm: LanguageModel) -> Pairs:
    """Logits under a press, ours and the reference's, text by text."""
    press = PRESS.for_prompt(1)
    if not attention_modules(lm.model):
        raise InputError("its layers have other names than those that presses look for")
    limits = [length_switch(lm.model)[0], compressed_window(lm.model, press)]
    texts, prompts = _texts(lm, min((limit for limit in limits if limit is not None), default=None))
    texts, prompts = texts[:PRESSED], prompts[:PRESSED]
    rows = zip(_batched(lm, texts, prompts, press), texts, prompts, strict=True)
    return [(ours, _alone(lm, text[: n + len(ours) - 1], n, press)) for ours, text, n in rows]


def _texts(lm: LanguageModel, limit: int | None) -> tuple[list[list[int]], list[int]]:
    """Random texts of prompt and answer, and the lengths of their prompts; none is longer than the model's
    context or ``limit``.
    """
    config = lm.model.config.get_text_config()
    limits = [limit, getattr(config, "max_position_embeddings", None), BEGINNING + max(ENDINGS) + NEW]
    longest = min(each for each in limits if each is not None)
    if longest <= NEW + 1:
        raise InputError(f"texts of {longest} tokens are too short to be checked")
    draw = torch.Generator().manual_seed(0)
    size = (len(ENDINGS), BEGINNING + max(ENDINGS) + NEW)
    tokens = torch.randint(lm.model.get_input_embeddings().weight.shape[0], size, generator=draw).tolist()
    prompts = [min(BEGINNING + ending, longest - NEW) for ending in ENDINGS]
    rows = zip(tokens, prompts, strict=True)
    return [[*tokens[0][:BEGINNING], *row[BEGINNING:]][: prompt + NEW] for row, prompt in rows], prompts


def _batched(
    lm: LanguageModel, texts: Sequence[list[int]], prompts: Sequence[int], press: kvpress.BasePress | None
) -> list[torch.Tensor]:
    """By text, float32 logits ``[n, V]`` after its prompt and after each right token that it is fed."""
    requests = [Request(text[:prompt], press, 0) for text, prompt in zip(texts, prompts, strict=True)]
    outcomes = Prefiller(lm, [request.token_ids for request in requests])(requests)
    cache = BatchedCache(lm.model, len(texts), recorder_for(lm.device), lm.packed)
    logits: list[list[torch.Tensor]] = []
    for outcome in outcomes:
        if not isinstance(outcome, Prefilled):
            raise InputError(outcome)
        cache.join(outcome.cache, outcome.masked_keys, outcome.shared)
        logits.append([outcome.logits[None]])
    at = list(prompts)
    for counts in FED:
        fed = [
            [*text[place : place + right], *[text[0]] * wrong]
            for text, place, (right, wrong) in zip(texts, at, counts, strict=False)
        ]
        sizes = [len(tokens) for tokens in fed]
        rows = cache.step(lm.model, fed, at).clone().split(sizes)
        if max(sizes) > 1:  # once more, as a question is fed to a compressed context: logits of its end alone
            ends = cache.step(lm.model, fed, at, [1] * len(fed))
            for row, end in zip(rows, ends, strict=True):
                row[-1] = end
        kept = [right for right, _ in counts[: len(texts)]]
        cache.keep(kept)
        for row, right in enumerate(kept):
            logits[row].append(rows[row][:right])
            at[row] += right
    return [torch.cat(each) for each in logits]


def _whole(lm: LanguageModel, text: Sequence[int], prompt: int, stop: int) -> torch.Tensor:
    """Float32 logits ``[n, V]`` after a text's prompt and each further token before ``stop``, of a pass over
    all of them without a cache, under eager attention.
    """
    ids = torch.tensor([text[:stop]], device=lm.device)
    with attention_implementation(lm.model, "eager"):
        return lm.model(input_ids=ids, use_cache=False).logits[0, prompt - 1 :].float()


def _alone(lm: LanguageModel, text: Sequence[int], prompt: int, press: kvpress.BasePress) -> torch.Tensor:
    """Float32 logits after a prompt and each token that follows it, fed one by one inside ``with
    press(model):``.
    """
    model, past = lm.model, DynamicCache(config=lm.model.config)
    logits = []
    with press(model):
        for start, stop in [(0, prompt), *((place, place + 1) for place in range(prompt, len(text)))]:
            places = torch.arange(start, stop, device=lm.device)
            with attention_implementation(model, UNMASKED if start else "eager"):
                out = model(
                    input_ids=torch.tensor([text[start:stop]], device=lm.device),
                    position_ids=places[None],
                    cache_position=places,
                    past_key_values=past,
                    use_cache=True,
                )
            logits.append(out.logits[0, -1:].float())
    return torch.cat(logits)


def _own_eager(module, *args, **kwargs):
    """The eager attention of the architecture's own file. Under a name of ours transformers makes no mask for
    it: a token sees all that its cache holds, and masks for a window's layer do not know what was removed.
    """
    return sys.modules[type(module).__module__].eager_attention_forward(module, *args, **kwargs)


ALL_ATTENTION_FUNCTIONS.register(UNMASKED, _own_eager)


@contextmanager
def _small_windows(lm: LanguageModel) -> Iterator[None]:
    """Sliding windows, where the model has them, of `WINDOW` tokens inside the context."""
    config, windows = lm.model.config.get_text_config(), set(sliding_windows(lm.model)) - {None}
    window = getattr(config, "sliding_window", None)
    if window is None or {window} != windows or window <= WINDOW:
        yield
        return
    config.sliding_window = WINDOW
    try:
        yield
    finally:
        config.sliding_window = window
