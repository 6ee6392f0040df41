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
from kvhelpers.presses.kinds import OWN_POSTHOC, Kind, is_own, kind, phases

_TRIED: set[tuple[type, str, Kind]] = set()  # architecture, attention and press


def check_own_presses(lm: LanguageModel, requests: Sequence[Request]) -> None:
    """Try each press of one's own on the shortest and the longest of its prompts, once for an architecture
    and its attention: does it leave the same cache when it is applied after the forward pass as within it?
    Then prompts under it can share a pass (`presses.kinds.is_posthoc`).

    Raises
    ------
    InputError : it fails; it leaves another cache each time; it reads attention weights, which this model's
        attention does not give.
    """
    by_kind: dict[Kind, list[Request]] = {}
    for request in requests:
        press, _ = phases(request.press)
        if is_own(press):
            by_kind.setdefault(kind(press), []).append(request)
    for one, asked in by_kind.items():
        key = type(lm.model), lm.attn, one
        if key in _TRIED:
            continue
        asked = sorted(asked, key=lambda request: len(request.token_ids))
        _refuse_weights(lm, asked[0])
        found = [_is_same_both_ways(lm, request) for request in (asked[0], asked[-1])]
        OWN_POSTHOC[one] = OWN_POSTHOC.get(one, True) and all(found)  # on one model and not on another: not
        _TRIED.add(key)


def _refuse_weights(lm: LanguageModel, request: Request) -> None:
    """Raise InputError for a press that leaves another cache where it is given attention weights, if this
    model's attention gives none.
    """
    if lm.attn == "eager":
        return
    eager = lm.attending("eager")
    with_weights, again = _prefilled(eager, request), _prefilled(eager, request)
    with _without_weights(lm):
        without = _prefilled(eager, request)
    if _equal(with_weights, again) and not _equal(with_weights, without):
        name = type(phases(request.press)[0]).__name__
        raise InputError(f"press {name!r} reads attention weights; set attn 'eager'")


def _is_same_both_ways(lm: LanguageModel, request: Request) -> bool:
    press, _ = phases(request.press)
    name, length = type(press).__name__, len(request.token_ids)
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
    one, known = kind(press), OWN_POSTHOC.pop(kind(press), None)
    OWN_POSTHOC[one] = posthoc
    try:
        return Prefiller(lm, [request.token_ids])([replace(request, press=press)])[0]
    finally:
        OWN_POSTHOC.pop(one)
        if known is not None:
            OWN_POSTHOC[one] = known


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
