"""What a press of one's own needs, found by trying it on a prompt."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch

from kvhelpers.errors import InputError
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
    InputError : it fails; under sdpa alone, so that it needs attention weights.
    """
    by_class: dict[type, list[Request]] = {}
    for request in requests:
        press, _ = phases(request.press)
        if is_own(press) and type(press) not in OWN_POSTHOC:
            by_class.setdefault(type(press), []).append(request)
    for press_class, asked in by_class.items():
        ends = [
            min(asked, key=lambda one: len(one.token_ids)),
            max(asked, key=lambda one: len(one.token_ids)),
        ]
        OWN_POSTHOC[press_class] = all([_same_both_ways(lm, request) for request in ends])


def _same_both_ways(lm: LanguageModel, request: Request) -> bool:
    press, _ = phases(request.press)
    name = type(press).__name__
    within = _prefilled(lm, request, posthoc=False)
    if isinstance(within, str):
        weights = lm.attn != "eager" and not isinstance(
            _prefilled(lm.attending("eager"), request, posthoc=False), str
        )
        if weights:
            raise InputError(f"press {name!r} needs attention weights; set attn 'eager' ({within})")
        raise InputError(f"press {name!r} fails on a prompt of {len(request.token_ids)} tokens: {within}")
    if not plain_layers(lm.model):
        return False
    after = _prefilled(lm, request, posthoc=True)
    return not isinstance(after, str) and _equal(within, after)


def _prefilled(lm: LanguageModel, request: Request, posthoc: bool) -> Prefilled | str:
    """One prompt's prefill, with the press applied within or after the forward pass."""
    press = phases(copy.deepcopy(request.press))[0]
    OWN_POSTHOC[type(press)] = posthoc
    try:
        return Prefiller(lm, [request.token_ids])([replace(request, press=press)])[0]
    finally:
        del OWN_POSTHOC[type(press)]


def _equal(one: Prefilled, other: Prefilled) -> bool:
    if any(masked is not None for masked in one.masked_keys):
        return False
    layers = zip(one.cache.layers, other.cache.layers, strict=True)
    return all(torch.equal(a.keys, b.keys) and torch.equal(a.values, b.values) for a, b in layers)
