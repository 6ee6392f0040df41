"""Prefill prompts under their presses, many at once where that gives each prompt what it would get alone.

Most presses look at a prompt's hidden states, keys and values once its forward pass is over. For them the
prompts of a call share one pass over their common beginning (the worked examples of a few-shot prompt), their
endings run together, and the press is applied to each prompt's own part afterwards, through the hooks that
kvpress itself installs. Endings of different lengths are padded on the right, where a causal model cannot
look. Other presses get one prompt at a time, as in kvpress.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import kvpress
import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from kvhelpers.errors import InputError, is_out_of_memory
from kvhelpers.generation.attention import attention_implementation
from kvhelpers.generation.cache_report import measure
from kvhelpers.generation.limits import attention_modules
from kvhelpers.generation.passes import Part, Passes, joined
from kvhelpers.generation.requests import Request
from kvhelpers.models.load import LanguageModel
from kvhelpers.models.packed import using
from kvhelpers.presses.kinds import is_posthoc
from kvhelpers.records import CacheReport

SHARED_AT_LEAST = 16  # tokens; a shorter common beginning is not worth a pass of its own
GROUP_TOKENS = 8192  # padded tokens, beginnings included, whose caches one pass fills
GROUP_LOGITS = 256  # rows of logits in one pass
IN_PREFILL = "in the prefill"


@dataclass(frozen=True)
class Prefilled:
    """What is left of a prompt.

    Next-token logits ``[V]`` (float32, from full attention), the compressed cache, which of its keys are
    masked (``[G, K]`` by layer, or None), a report, how many of its tokens, from the first on, it shares
    with the other prompts of the call, and the full cache where it was to be kept.
    """

    logits: torch.Tensor
    cache: DynamicCache
    masked_keys: list[torch.Tensor | None]
    report: CacheReport
    shared: int = 0
    full: DynamicCache | None = None


class Prefiller:
    """Prefills the prompts of one call of `generate.generate`.

    ``keep_full`` keeps the full caches too; ``passes`` are those of earlier calls on this model.
    """

    def __init__(
        self,
        lm: LanguageModel,
        prompts: Sequence[Sequence[int]],
        keep_full: bool = False,
        passes: Passes | None = None,
    ):
        self.lm, self.modules, self.keep_full = lm, attention_modules(lm.model), keep_full
        self.plain_layers = plain_layers(lm.model)
        self.passes = passes or Passes()
        self.beginning = self._beginning_of(prompts)

    def _beginning_of(self, prompts: Sequence[Sequence[int]]) -> list[int]:
        """The beginning whose pass serves all prompts: the one that is kept, or the longest in common."""
        kept = list(self.passes.beginning)
        if kept and all(len(prompt) > len(kept) and prompt[: len(kept)] == kept for prompt in prompts):
            return kept
        common = _common_beginning(prompts) if len(prompts) > 1 else []
        return common if len(common) >= SHARED_AT_LEAST else []

    def group_size(self, prompts: Sequence[Sequence[int]], press: kvpress.BasePress | None) -> int:
        """How many of ``prompts``, the first of which has ``press``, should be prefilled in one call."""
        if not self.together(press):
            return 1
        lengths: set[int] = set()
        for count, prompt in enumerate(prompts):
            lengths.add(len(prompt))
            if count and (
                (count + 1) * max(lengths) > GROUP_TOKENS or (count + 1) * len(lengths) > GROUP_LOGITS
            ):
                return count
        return len(prompts)

    def together(self, press: kvpress.BasePress | None) -> bool:
        """Whether prompts under this press can share a forward pass on this model."""
        return self.plain_layers and is_posthoc(press)

    @torch.inference_mode()
    def __call__(self, requests: Sequence[Request], again: bool = True) -> list[Prefilled | str]:
        """Prefill a group, each prompt under its press; a prompt on which the model or the press fails gives
        a sentence instead. ``again`` is whether other conditions will ask for these prompts.

        Torch's generators are seeded for each prompt, so that a press that draws random numbers gives the
        same cache whichever group the prompt is in. Running out of memory raises.
        """
        if not all(self.together(request.press) for request in requests):
            return [or_reason(IN_PREFILL, self._alone, request) for request in requests]
        endings = or_reason(IN_PREFILL, self._endings, requests, again)
        if isinstance(endings, str):
            return [endings] * len(requests)
        return [or_reason(IN_PREFILL, self._compress, *pair) for pair in zip(endings, requests, strict=True)]

    def _endings(self, requests: Sequence[Request], again: bool) -> list[Part]:
        """What a pass leaves of each prompt's ending; prompts whose endings are kept need none."""
        passes, skip = self.passes, len(self.beginning)
        passes.begin(self.lm.attn, self.beginning)
        pressed = any(request.press is not None for request in requests)
        watch = bool(self.modules) and (passes.keeps or pressed)
        if skip and (passes.beginning_part is None or (watch and not passes.beginning_part.inputs)):
            (passes.beginning_part,) = self._run([self.beginning], None, watch)
        prompts = [request.token_ids for request in requests]
        endings = [passes.ending(prompt) for prompt in prompts]
        missing = [index for index, ending in enumerate(endings) if ending is None]
        if missing:
            ran = self._run([prompts[index][skip:] for index in missing], passes.beginning_part, watch)
            for index, ending in zip(missing, ran, strict=True):
                endings[index] = ending
                if again:
                    passes.keep(prompts[index], ending)
        return endings

    def _run(self, texts: Sequence[Sequence[int]], before: Part | None, watch: bool) -> list[Part]:
        """Run texts after a common beginning; those shorter than the longest are padded on the right."""
        inputs, rotary = [], [None]

        def note(module, args, kwargs):
            inputs.append(kwargs["hidden_states"])
            rotary[0] = kwargs.get("position_embeddings")

        width, lengths = max(map(len, texts)), sorted(set(map(len, texts)))
        ids = torch.tensor([[*text, *[text[-1]] * (width - len(text))] for text in texts])
        shared = before and [[t.expand(len(ids), -1, -1, -1) for t in pair] for pair in before.layers]
        cache = self._cache_of(shared) if shared else DynamicCache(config=self.lm.model.config)
        with ExitStack() as stack:
            stack.enter_context(attention_implementation(self.lm.model, self.lm.attn))
            stack.enter_context(using(self.lm.packed))
            for module in self.modules if watch else ():
                stack.callback(module.register_forward_pre_hook(note, with_kwargs=True).remove)
            out = self.lm.model(
                input_ids=ids.to(self.lm.device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=torch.tensor([length - 1 for length in lengths], device=self.lm.device),
            )
        skip = cache.layers[0].keys.shape[2] - width
        parts = []
        for row, length in enumerate(map(len, texts)):
            own = slice(row, row + 1)
            layers = [
                tuple(t[own, :, skip : skip + length].clone() for t in (layer.keys, layer.values))
                for layer in cache.layers
            ]
            noted = [whole[own, :length].clone() for whole in inputs]
            cut = rotary[0] and tuple(part[:1, :length] for part in rotary[0])
            parts.append(
                Part(layers, noted, cut, out.logits[row, lengths.index(length)].to(torch.float32, copy=True))
            )
        return parts

    def _compress(self, ending: Part, request: Request) -> Prefilled:
        """Make one prompt's cache of its beginning and ending and apply its press to it."""
        n_tokens, pressed = len(request.token_ids), request.press is not None
        whole = joined(self.passes.beginning_part, ending, with_inputs=pressed)
        cache = self._cache_of(whole.layers)
        full = self._cache_of(whole.layers) if self.keep_full else None
        places = _noted(request)
        before = [(keys[0, :, places], values[0, :, places]) for keys, values in whole.layers]
        if pressed:
            with (
                seeded(request.seed, self.lm.device),
                request.press(self.lm.model),
                _hooks_only(self.modules),
            ):
                for module, hidden_states in zip(self.modules, whole.inputs, strict=True):
                    module(
                        hidden_states=hidden_states,
                        past_key_values=cache,
                        cache_position=torch.arange(n_tokens, device=self.lm.device),
                        position_embeddings=whole.rotary,
                    )
        unmasked = [None] * len(cache.layers)
        report = measure(n_tokens, cache, unmasked, before, request.press)
        shared = 0 if pressed else len(self.beginning)
        return Prefilled(whole.logits, cache, unmasked, report, shared, full)

    def _cache_of(self, parts: Sequence[Sequence[torch.Tensor]]) -> DynamicCache:
        """A cache of these keys and values by layer."""
        cache = DynamicCache(config=self.lm.model.config)
        for layer, (keys, values) in zip(cache.layers, parts, strict=True):
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys, values
        return cache

    def _alone(self, request: Request) -> Prefilled:
        """One prompt through the model inside ``with press(model):``."""
        lm, cache, whole, places = self.lm, DynamicCache(config=self.lm.model.config), {}, _noted(request)
        for module in self.modules:
            module.masked_key_indices = None
        with ExitStack() as stack:
            stack.enter_context(seeded(request.seed, lm.device))
            stack.enter_context(attention_implementation(lm.model, lm.attn))
            stack.enter_context(using(lm.packed))
            if request.press is not None:
                stack.enter_context(_before_press(self.modules, whole, None if self.keep_full else places))
                stack.enter_context(request.press(lm.model))
            ids = torch.tensor([list(request.token_ids)], device=lm.device)
            out = lm.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        masked, parts = [None] * len(cache.layers), [(layer.keys, layer.values) for layer in cache.layers]
        if request.press is not None:
            masked = [_masked_keys(*pair) for pair in zip(self.modules, cache.layers, strict=True)]
            parts = [whole[module.layer_idx] for module in self.modules]
        for module in self.modules:
            module.masked_key_indices = None
        noted = slice(None) if request.press is not None and not self.keep_full else places
        before = [(keys[0, :, noted], values[0, :, noted]) for keys, values in parts]
        report = measure(len(request.token_ids), cache, masked, before, request.press)
        full = self._cache_of(parts) if self.keep_full else None
        return Prefilled(out.logits[0, -1].float(), cache, masked, report, full=full)


def plain_layers(model: PreTrainedModel) -> bool:
    """Whether every layer attends to the whole context."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)


def or_reason(when: str, function, *args):
    """``function(*args)``, or a sentence when the model or the press fails in it; running out of memory
    raises.
    """
    try:
        return function(*args)
    except Exception as error:  # a press may fail in any way on a model it was not made for
        if isinstance(error, InputError) or is_out_of_memory(error):
            raise
        return f"{type(error).__name__} {when}: {str(error).splitlines()[0] if str(error) else 'no message'}"


def _common_beginning(prompts: Sequence[Sequence[int]]) -> list[int]:
    """Tokens with which all prompts begin; each keeps at least one of its own."""
    # in lexicographic order, so that no prompt between them differs earlier
    first, last = min(prompts), max(prompts)
    longest = min(map(len, prompts)) - 1
    return list(first[: next((i for i in range(longest) if first[i] != last[i]), longest)])


def _noted(request: Request) -> list[int]:
    """The places of a prompt of which is noted whether they are kept: the first one, and the question's."""
    return [0, *range(*(request.question or (0, 0)))]


@contextmanager
def _hooks_only(modules: list[nn.Module]):
    """Let a call of a module run the hooks installed on it, and nothing else."""
    for module in modules:
        module.forward = lambda **kwargs: (None, None)
    try:
        yield
    finally:
        for module in modules:
            del module.forward


@contextmanager
def _before_press(
    modules: list[nn.Module],
    into: dict[int, tuple[torch.Tensor, torch.Tensor]],
    places: list[int] | None,
):
    """Note each layer's keys and values ``[1, G, N, D]``, or those of some places only, before a press
    (registered later) changes them.
    """

    def note(module, args, kwargs, output):
        layer = kwargs["past_key_values"].layers[module.layer_idx]
        parts = (layer.keys, layer.values)
        into[module.layer_idx] = parts if places is None else tuple(part[:, :, places] for part in parts)

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(note, with_kwargs=True).remove)
        yield


@contextmanager
def seeded(seed: int, device: str):
    """Seed torch inside the context and put its generators back afterwards."""
    devices = [torch.cuda.current_device()] if device == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _masked_keys(module: nn.Module, layer) -> torch.Tensor | None:
    """Keys ``[G, K]`` that a head-wise press (AdaKV and its like) masks instead of removing: kvpress's
    ``masked_key_indices`` as a mask.
    """
    indices = getattr(module, "masked_key_indices", None)
    if indices is None:
        return None
    masked = torch.zeros(layer.keys.shape[1:3], dtype=torch.bool, device=layer.keys.device)
    _, heads, positions = indices
    masked[heads, positions] = True
    return masked
