"""What a press of one's own needs is found by trying it."""

from dataclasses import dataclass

import kvpress
import numpy as np
import pytest
import torch
from kvpress import ChunkPress, KnormPress, ScorerPress
from reference import alone, random_prompts

from kvhelpers.errors import InputError
from kvhelpers.generation.generate import Request, Settings, generate
from kvhelpers.presses.kinds import OWN_POSTHOC, is_posthoc, kind

TOKENS = 8


@dataclass
class ValueNormPress(ScorerPress):
    def score(self, module, hidden_states, keys, values, attentions, kwargs):
        return values.norm(dim=-1)


class KnormPress(KnormPress):  # the name alone says nothing
    def score(self, module, hidden_states, keys, values, attentions, kwargs):
        return torch.arange(keys.shape[2]).expand(keys.shape[:3]).float()


@dataclass
class OutputPress(ScorerPress):
    """It looks at what attention gave, which is there within the forward pass only."""

    def forward_hook(self, module, inputs, kwargs, output):
        self.seen = output[0]
        return super().forward_hook(module, inputs, kwargs, output)

    def score(self, module, hidden_states, keys, values, attentions, kwargs):
        return self.seen.norm(dim=-1)[:, None].expand(keys.shape[:3])


@dataclass
class WeightsPress(ScorerPress):
    def score(self, module, hidden_states, keys, values, attentions, kwargs):
        return attentions.mean(1, keepdim=True).mean(2).expand(keys.shape[:3])


@dataclass
class BrokenPress(ScorerPress):
    def score(self, module, hidden_states, keys, values, attentions, kwargs):
        raise ValueError("too deep")


@dataclass
class OptionalPress(ScorerPress):
    def score(self, module, hidden_states, keys, values, attentions, kwargs):
        return (
            keys.norm(dim=-1)
            if attentions is None
            else attentions.sum(1, keepdim=True).sum(2).expand(keys.shape[:3])
        )


@dataclass
class DicePress(ScorerPress):
    def score(self, module, hidden_states, keys, values, attentions, kwargs):
        return torch.from_numpy(np.random.default_rng().random(keys.shape[:3]))


@dataclass
class SeededPress(ScorerPress):
    def score(self, module, hidden_states, keys, values, attentions, kwargs):
        return torch.rand(keys.shape[:3])


def tokens(lm, press_class):
    prompts = random_prompts(3)
    requests = [Request(prompt, press_class(0.5), 0) for prompt in prompts]
    runs = {run.index: run for run in generate(lm, requests, Settings(TOKENS, 3))}
    return prompts, [runs[index].token_ids for index in range(3)]


@pytest.mark.parametrize(
    ("press_class", "posthoc"),
    [(ValueNormPress, True), (KnormPress, True), (SeededPress, True), (OutputPress, False)],
)
def test_tokens_are_those_of_the_press_alone(tiny, press_class, posthoc):
    prompts, found = tokens(tiny, press_class)
    assert OWN_POSTHOC[kind(press_class(0.5))] is posthoc is is_posthoc(press_class(0.5))
    for prompt, run in zip(prompts, found, strict=True):
        assert run == alone(tiny, prompt, press_class(0.5), 0, TOKENS)


@pytest.mark.parametrize(
    ("press_class", "reason"),
    [
        (WeightsPress, "'WeightsPress' reads attention weights; set attn 'eager'"),
        (OptionalPress, "'OptionalPress' reads attention weights; set attn 'eager'"),
        (DicePress, "'DicePress' leaves another cache each time"),
        (BrokenPress, "'BrokenPress' fails on a prompt of 70 tokens: ValueError in the prefill: too deep"),
    ],
)
def test_what_it_needs_or_fails_at_is_one_sentence(tiny, press_class, reason):
    with pytest.raises(InputError, match=reason):
        tokens(tiny, press_class)
    assert kind(press_class(0.5)) not in OWN_POSTHOC


def test_what_was_found_of_one_press_says_nothing_of_another_in_the_same_wrapper(tiny):
    def wrapped(inner):
        return ChunkPress(inner(0.5), chunk_length=32)

    prompts, found = tokens(tiny, lambda _: wrapped(ValueNormPress))
    assert is_posthoc(wrapped(ValueNormPress)) and not is_posthoc(wrapped(OutputPress))
    assert not is_posthoc(wrapped(kvpress.KnormPress))  # as without any press of one's own
    for prompt, run in zip(prompts, found, strict=True):
        assert run == alone(tiny, prompt, wrapped(ValueNormPress), 0, TOKENS)


def test_weights_are_looked_for_again_where_attention_gives_none(tiny):
    tokens(tiny.attending("eager"), OptionalPress)
    with pytest.raises(InputError, match="'OptionalPress' reads attention weights"):
        tokens(tiny, OptionalPress)
