"""What a press of one's own needs, found by trying it on a prompt."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch

from kvhelpers.errors import InputError
from kvhelpers.generation.limits import attention_modules
from kvhelpers.generation.prefill import Prefilled, Prefiller, plain_layers
from kvhelpers.generation.requests import Request
from kvhelpers.models.load import LanguageModel
from kvhelpers.presses.kinds import OWN_POSTHOC, is_own, phases


def check_own_presses(lm: LanguageModel, requests: Sequence[Request]) -> None:
    """Try each class of one's own press on the shortest and the longest of its prompts, once a process: does
    it leave the same cache when it is applied after the forward pass as within it? Then prompts under it can
    share a pass (`presses.kinds.is_posthoc`).

    Raises
    ------
    InputError : it fails; it leaves another cache each time; it reads attention weights, which this model's
        attention does not give.
    """
    by_class: dict[type, list[Request]] = {}
    for request in requests:
        press, _ = phases(request.press)
        if is_own(press) and type(press) not in OWN_POSTHOC:
            by_class.setdefault(type(press), []).append(request)
    for press_class, asked in by_class.items():
        asked = sorted(asked, key=lambda request: len(request.token_ids))
        found = [_is_same_both_ways(lm, request) for request in (asked[0], asked[-1])]
        OWN_POSTHOC[press_class] = all(found)


def _is_same_both_ways(lm: LanguageModel, request: Request) -> bool:
    press, _ = phases(request.press)
    name, length = type(press).__name__, len(request.token_ids)
    if lm.attn != "eager":
        eager = lm.attending("eager")
        with_weights = _prefilled(eager, request)
        if not isinstance(with_weights, str):
            again = _prefilled(eager, request)
            with _without_weights(lm):
                without = _prefilled(eager, request)
            if _equal(with_weights, again) and not _equal(with_weights, without):
                raise InputError(f"press {name!r} reads attention weights; set attn 'eager'")
    within, again = _prefilled(lm, request), _prefilled(lm, request)
    if isinstance(within, str):
        raise InputError(f"press {name!r} fails on a prompt of {length} tokens: {within}")
    if not _equal(within, again):
        raise InputError(
            f"press {name!r} leaves another cache each time; random numbers are to be torch's, which is "
            "seeded for each prompt"
        )
    return plain_layers(lm.model) and _equal(within, _prefilled(lm, request, posthoc=True))


def _prefilled(lm: LanguageModel, request: Request, posthoc: bool = False) -> Prefilled | str:
    """One prompt's prefill, with the press applied within or after the forward pass."""
    press = phases(copy.deepcopy(request.press))[0]
    OWN_POSTHOC[type(press)] = posthoc
    try:
        return Prefiller(lm, [request.token_ids])([replace(request, press=press)])[0]
    finally:
        del OWN_POSTHOC[type(press)]


@contextmanager
def _without_weights(lm: LanguageModel) -> Iterator[None]:
    """Let attention modules give no weights to what looks at their output later."""
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: (output[0], None, *output[2:]))
        for module in attention_modules(lm.model)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _equal(one: Prefilled | str, other: Prefilled | str) -> bool:
    """Whether two caches are the same, bit for bit; failures never are."""
    if isinstance(one, str) or isinstance(other, str):
        return False
    layers = zip(one.cache.layers, other.cache.layers, strict=True)
    if not all(torch.equal(a.keys, b.keys) and torch.equal(a.values, b.values) for a, b in layers):
        return False
    masks = zip(one.masked_keys, other.masked_keys, strict=True)
    return all(a is b if a is None or b is None else torch.equal(a, b) for a, b in masks)
