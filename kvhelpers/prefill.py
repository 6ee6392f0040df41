"""Prefill one prompt under a press, and measure what the press left of its cache."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import kvpress
import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from kvhelpers.models import LanguageModel
from kvhelpers.slotcache import attention_implementation


@dataclass(frozen=True)
class CacheReport:
    """What one prompt's cache holds after its prefill.

    ``kept_tokens`` is the mean over layers and key-value heads, so head-wise and layer-wise presses are measured too;
    ``cache_bytes`` are bytes really held, which head-wise masking does not shrink. ``sink_kept`` is the share of heads
    (first layer aside, whose values do not depend on position) that still hold the prompt's first token, the attention
    sink (Xiao et al. 2024, https://arxiv.org/abs/2309.17453). ``window`` is the press's observation window, or None.
    """

    prompt_tokens: int
    kept_tokens: float
    cache_bytes: int
    full_bytes: int
    sink_kept: float
    window: int | None

    def flags(self, compresses: bool) -> list[str]:
        """Names of `validity.FLAGS` that this cache raises; ``compresses``: the press was asked to remove something."""
        raised = {
            "kept_within_window": self.window is not None and self.kept_tokens <= self.window,
            "prompt_within_window": self.window is not None and self.prompt_tokens <= self.window,
            "sink_evicted": self.sink_kept < 0.5,
            "not_compressed": self.kept_tokens >= self.prompt_tokens,
            "cache_not_shrunk": self.kept_tokens < self.prompt_tokens and self.cache_bytes >= self.full_bytes,
        }
        return [name for name, on in raised.items() if on] if compresses else []


@dataclass(frozen=True)
class Prefilled:
    """Next-token logits ``[V]`` (float32, from full attention), the compressed cache, and masked positions per layer."""

    logits: torch.Tensor
    cache: DynamicCache
    hidden: list[torch.Tensor | None]


def attention_modules(model: PreTrainedModel) -> list[nn.Module]:
    """Self-attention modules of the decoder, by layer."""
    inner = model.model.language_model if hasattr(model.model, "language_model") else model.model
    return [layer.self_attn for layer in inner.layers]


@contextmanager
def _first_token(modules: list[nn.Module], into: dict[int, tuple[torch.Tensor, torch.Tensor]]):
    """Note each layer's keys and values of token 0, ``[G, D]``, before a press (registered later) prunes or changes them."""

    def note(module, args, kwargs, output):
        layer = kwargs["past_key_values"].layers[module.layer_idx]
        into[module.layer_idx] = (layer.keys[0, :, 0].clone(), layer.values[0, :, 0].clone())

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(note, with_kwargs=True).remove)
        yield


@contextmanager
def _seeded(seed: int, device: str):
    """Seed torch inside the context and put its generators back afterwards."""
    devices = [torch.cuda.current_device()] if device == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@torch.inference_mode()
def prefill(
    lm: LanguageModel, token_ids: list[int], press: kvpress.BasePress | None, seed: int
) -> tuple[Prefilled, CacheReport]:
    """Run one prompt through the model inside ``with press(model):``.

    The prompt is unpadded, because presses do not know padding. Torch's generators are seeded, so that a press that
    draws random numbers gives the same cache whichever batch the prompt is in.
    """
    modules = attention_modules(lm.model)
    cache = DynamicCache(config=lm.model.config)
    sinks: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for module in modules:
        module.masked_key_indices = None
    with ExitStack() as stack:
        stack.enter_context(_seeded(seed, lm.device))
        stack.enter_context(attention_implementation(lm.model, lm.attn))
        stack.enter_context(_first_token(modules, sinks))
        if press is not None:
            stack.enter_context(press(lm.model))
        out = lm.model(
            input_ids=torch.tensor([token_ids], device=lm.device), past_key_values=cache, use_cache=True, logits_to_keep=1
        )
    hidden = [_hidden(module, layer) for module, layer in zip(modules, cache.layers, strict=True)]
    report = _report(len(token_ids), cache, hidden, sinks, observation_window(press))
    for module in modules:
        module.masked_key_indices = None
    return Prefilled(out.logits[0, -1].float(), cache, hidden), report


def observation_window(press: kvpress.BasePress | None) -> int | None:
    """Number of last prompt tokens that a press always keeps because it observes from them (SnapKV), or None."""
    while press is not None:
        if hasattr(press, "window_size"):
            return int(press.window_size)
        press = getattr(press, "press", None)
    return None


def _hidden(module: nn.Module, layer) -> torch.Tensor | None:
    """Positions ``[G, K]`` that a head-wise press (AdaKV and its like) masks instead of removing."""
    masked = getattr(module, "masked_key_indices", None)
    if masked is None:
        return None
    hidden = torch.zeros(layer.keys.shape[1:3], dtype=torch.bool, device=layer.keys.device)
    _, heads, positions = masked
    hidden[heads, positions] = True
    return hidden


def _report(n_tokens, cache, hidden, sinks, window) -> CacheReport:
    kept, sink, held, full = [], [], 0, 0
    for index, (layer, masked) in enumerate(zip(cache.layers, hidden, strict=True)):
        visible = torch.ones(layer.keys.shape[1:3], dtype=torch.bool, device=layer.keys.device)
        if masked is not None:
            visible &= ~masked
        kept.append(visible.sum(-1).float().mean().item())
        if index or len(cache.layers) == 1:
            keys, values = sinks[index]
            same = (layer.keys[0] == keys[:, None]).all(-1) | (layer.values[0] == values[:, None]).all(-1)
            sink.append((same & visible).any(-1).float().mean().item())
        held += layer.keys.nbytes + layer.values.nbytes
        full += (layer.keys.nbytes + layer.values.nbytes) // layer.keys.shape[2] * n_tokens
    return CacheReport(
        prompt_tokens=n_tokens,
        kept_tokens=round(sum(kept) / len(kept), 3),
        cache_bytes=held,
        full_bytes=full,
        sink_kept=round(sum(sink) / len(sink), 4),
        window=window,
    )
