"""Feed a run's tokens again to the cache it had after the prefill, and look inside the model meanwhile.

A run that decoded greedily from a cache that a press compressed once is a fixed sequence of tokens: one
forward pass over all of them gives what each of its steps saw, up to rounding. So a new signal needs no new
run. The full cache of the same prompt gives the reference distributions of the same tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from kvpress import ScorerPress
from kvpress.presses.base_press import SUPPORTED_MODELS
from kvpress.utils import get_prerope_query_states
from torch import nn
from transformers import DynamicCache
from transformers.models.llama.modeling_llama import rotate_half

from kvhelpers.errors import InputError
from kvhelpers.generation.attention import attention_implementation
from kvhelpers.generation.limits import attention_modules
from kvhelpers.generation.passes import Passes
from kvhelpers.generation.prefill import Prefiller, plain_layers
from kvhelpers.generation.requests import Request
from kvhelpers.generation.self_check import check_model
from kvhelpers.models.load import LanguageModel
from kvhelpers.models.packed import using
from kvhelpers.presses.kinds import phases
from kvhelpers.records import LAST_QUERIES

ENDINGS = 2**31  # bytes that prompts' passes may take, to serve their other presses


@dataclass(frozen=True)
class Watched:
    """What a layer's attention module was given: its inputs ``[1, N, d]`` and, for each of them, cosines and
    sines of its position ``[1, N, D]``.
    """

    inputs: torch.Tensor
    rotary: tuple[torch.Tensor, torch.Tensor]

    def last(self, count: int) -> Watched:
        """Of the last tokens only."""
        return Watched(self.inputs[:, -count:], tuple(part[:, -count:] for part in self.rotary))


@dataclass(frozen=True)
class Prompt:
    """A prompt's caches before any new token.

    By layer: ``keys`` and ``values`` ``[G, N, D]`` of the full cache, ``places`` ``[G, K]`` of the tokens
    that the press kept, in the order of the compressed cache. ``scores`` ``[G, N]`` by layer are the press's,
    where it is one that scores; ``last`` are the inputs of the `LAST_QUERIES` last tokens by watched layer;
    and ``logits`` ``[V]`` are those of the first new token.
    """

    compressed: DynamicCache
    full: DynamicCache
    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    places: list[torch.Tensor]
    scores: list[torch.Tensor]
    last: dict[int, Watched]
    logits: torch.Tensor


@dataclass(frozen=True)
class Pass:
    """One forward pass over a run's tokens but the last: raw float32 ``logits`` ``[T-1, V]`` of tokens 1 to
    T-1, ``hidden`` states ``[T-1, d]`` from which they come by layer (0 is the embedding), and ``attention``
    weights ``[H, T-1, K+T-1]`` by watched layer, over the cache's keys and then the new ones.
    """

    logits: torch.Tensor
    hidden: dict[int, torch.Tensor]
    attention: dict[int, torch.Tensor]


class Replayer:
    """Replays runs of prompts that share a beginning.

    ``watched`` are three layers, at a quarter, a half and the end of the model; ``middle`` is the index of
    the middle hidden state; ``beginning`` is how many tokens all prompts begin with.

    Raises
    ------
    InputError : a model with layers that do not attend to the whole context, of an architecture that kvpress
        does not support, or whose batched runs are not found exact.
    """

    def __init__(self, lm: LanguageModel, prompts: Sequence[Sequence[int]]):
        if not plain_layers(lm.model):
            raise InputError(
                f"model {lm.name!r} has layers with a sliding window; its runs cannot be replayed"
            )
        self.lm, self.modules = lm, attention_modules(lm.model)
        if not isinstance(lm.model, SUPPORTED_MODELS):  # `attention` knows the rules of these
            raise InputError(
                f"model {lm.name!r} is a {type(lm.model).__name__}; only runs of architectures that kvpress "
                f"supports can be replayed ({', '.join(model.__name__ for model in SUPPORTED_MODELS)})"
            )
        check_model(lm, pressed=True)
        n = len(self.modules)
        self.watched, self.middle = sorted({n // 4, n // 2, n - 1}), n // 2
        self.prefiller = Prefiller(lm, prompts, keep_full=True, passes=Passes(limit=ENDINGS))
        self.beginning = len(self.prefiller.beginning)

    def prefill(self, request: Request) -> Prompt:
        """Prefill a request.

        Raises
        ------
        InputError : a context with a question behind it; a press that acts while decoding, that masks keys,
            that changes those it keeps or keeps differently many by layer; a prefill that fails.
        """
        if request.context is not None:
            raise InputError(
                "compress 'context' has the question fed to the compressed cache; its runs cannot be replayed"
            )
        if phases(request.press)[1] is not None:
            raise InputError(f"press {request.press!r} acts while decoding; its runs cannot be replayed")
        scores: list[torch.Tensor] = []
        with _watching(self.modules, self.watched) as noted, _noting_scores(request.press, scores):
            (prefilled,) = self.prefiller([request])
        if isinstance(prefilled, str):
            raise InputError(f"the prompt cannot be prefilled again: {prefilled}")
        if any(masked is not None for masked in prefilled.masked_keys):
            raise InputError(f"press {request.press!r} masks keys of some heads; its runs cannot be replayed")
        layers = list(zip(prefilled.full.layers, prefilled.cache.layers, strict=True))
        last = {layer: watched.last(LAST_QUERIES) for layer, watched in noted.items()}
        return Prompt(
            compressed=prefilled.cache,
            full=prefilled.full,
            keys=[whole.keys[0] for whole, _ in layers],
            values=[whole.values[0] for whole, _ in layers],
            places=[_places(whole.keys[0], kept.keys[0], request) for whole, kept in layers],
            scores=[score[0] for score in scores],
            last=last if request.press is not None else {},
            logits=prefilled.logits,
        )

    @torch.inference_mode()
    def feed(self, cache: DynamicCache, token_ids: Sequence[int], position: int, watch: bool) -> Pass:
        """Feed a run's tokens but the last to a cache, which grows by them, from ``position`` on."""
        count, held = len(token_ids) - 1, cache.layers[0].keys.shape[2]
        device = self.lm.device
        with ExitStack() as stack:
            stack.enter_context(attention_implementation(self.lm.model, self.lm.attn))
            stack.enter_context(using(self.lm.packed))
            noted = stack.enter_context(_watching(self.modules, self.watched if watch else ()))
            out = self.lm.model(
                input_ids=torch.tensor([list(token_ids[:-1])], device=device),
                position_ids=torch.arange(position, position + count, device=device)[None],
                cache_position=torch.arange(held, held + count, device=device),
                past_key_values=cache,
                use_cache=True,
                output_hidden_states=watch,
            )
        hidden = (
            {index: out.hidden_states[index][0] for index in (self.middle, len(self.modules))}
            if watch
            else {}
        )
        weights = {
            layer: attention(self.modules[layer], seen, cache.layers[layer].keys[0])
            for layer, seen in noted.items()
        }
        return Pass(out.logits[0].float(), hidden, weights)


@torch.inference_mode()
def attention(module: nn.Module, queries: Watched, keys: torch.Tensor) -> torch.Tensor:
    """Attention weights ``[H, Q, K]`` (float32) of the queries of some inputs on ``keys`` ``[G, K, D]``; the
    queries are those of the last Q keys, and none looks ahead.
    """
    states = get_prerope_query_states(module, queries.inputs)
    cos, sin = (part[:, None] for part in queries.rotary)
    states = (states * cos + rotate_half(states) * sin)[0]
    shared = keys.repeat_interleave(len(states) // len(keys), dim=0)
    logits = (states @ shared.transpose(1, 2)).float() * module.scaling
    q, k = logits.shape[1:]
    ahead = torch.ones(q, k, dtype=torch.bool, device=logits.device).triu(k - q + 1)
    return logits.masked_fill(ahead, -torch.inf).softmax(-1)


def _places(whole: torch.Tensor, kept: torch.Tensor, request: Request) -> torch.Tensor:
    """Which tokens' keys ``[G, N, D]`` the kept ones ``[G, K, D]`` are, ``[G, K]``."""
    weights = torch.randn(whole.shape[-1], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    marks, wanted = (keys.double() @ weights.to(keys.device) for keys in (whole, kept))
    ordered, order = marks.sort(-1)
    above = torch.searchsorted(ordered, wanted.contiguous()).clamp(1, marks.shape[-1] - 1)
    gaps = [(ordered.gather(-1, index) - wanted).abs() for index in (above - 1, above)]
    places = order.gather(-1, torch.where(gaps[0] < gaps[1], above - 1, above))
    if not torch.equal(whole.gather(1, places[..., None].expand_as(kept)), kept):
        raise InputError(
            f"press {request.press!r} changes the keys that it keeps; its runs cannot be replayed"
        )
    return places


@contextmanager
def _watching(modules: Sequence[nn.Module], layers: Sequence[int]) -> Iterator[dict[int, Watched]]:
    """Note what the attention modules of some layers are given, the last time they are called."""
    noted: dict[int, Watched] = {}

    def note(module, args, kwargs):
        noted[module.layer_idx] = Watched(kwargs["hidden_states"], kwargs["position_embeddings"])

    with ExitStack() as stack:
        for layer in layers:
            handle = modules[layer].register_forward_pre_hook(note, with_kwargs=True)
            stack.callback(handle.remove)
        yield noted


@contextmanager
def _noting_scores(press: object, into: list[torch.Tensor]) -> Iterator[None]:
    """Note the scores ``[1, G, N]`` that a scoring press gives, layer by layer."""
    if not isinstance(press, ScorerPress):
        yield
        return
    score = press.score

    def noted(*args, **kwargs):
        into.append(score(*args, **kwargs))
        return into[-1]

    press.score = noted
    try:
        yield
    finally:
        del press.score
