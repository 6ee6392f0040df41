import pytest
import torch
from kvpress import KnormPress, SnapKVPress, StreamingLLMPress
from reference import alone, random_prompts
from transformers import DynamicCache

from kvhelpers.generation.generate import generate
from kvhelpers.generation.requests import Request, Settings
from kvhelpers.presses.restore_rows import CHOICES, OLDEST, OTHER, QUERIES, RANDOM, WANTED, RestoreRowsPress

PROMPT, OUTPUT = random_prompts(2)[1], [7, 8, 9, 10, 11, 12]
N = len(PROMPT)
OTHER_PROMPT = tuple(random_prompts(2)[0])


def press(rows, choose=WANTED, base=None):
    other = OTHER_PROMPT if choose == OTHER else ()
    return RestoreRowsPress(base or StreamingLLMPress(0.75), N, rows, choose, other)


def caches(lm, made, ids):
    """The cache that a press leaves, and the full one."""
    torch.manual_seed(0)
    compressed, full = DynamicCache(config=lm.model.config), DynamicCache(config=lm.model.config)
    with torch.no_grad():
        with made(lm.model):
            lm.model(torch.tensor([ids]), past_key_values=compressed)
        lm.model(torch.tensor([ids]), past_key_values=full)
    return compressed, full


def places(layer, whole, head=0):
    """Where a compressed layer's keys stand in the full one."""
    return [int((whole.keys[0, head] - key).abs().sum(-1).argmin()) for key in layer.keys[0, head]]


def test_without_rows_the_prompt_is_compressed_and_the_output_stays(tiny):
    compressed, full = caches(tiny, press(0), [*PROMPT, *OUTPUT])
    alone_, _ = caches(tiny, StreamingLLMPress(0.75), PROMPT)
    for layer, whole, own in zip(compressed.layers, full.layers, alone_.layers, strict=True):
        n_kept = own.keys.shape[2]
        expected = places(own, whole) + list(range(N, N + len(OUTPUT)))
        assert layer.keys.shape[2] == n_kept + len(OUTPUT)
        assert sorted(places(layer, whole)) == places(layer, whole) == sorted(expected)


@pytest.mark.parametrize("choose", CHOICES)
def test_so_many_evicted_positions_come_back_with_their_full_keys_and_values(tiny, choose):
    ids = [*PROMPT, *OUTPUT]
    without, full = caches(tiny, press(0), ids)
    with_rows, _ = caches(tiny, press(9, choose), ids)
    for before, layer, whole in zip(without.layers, with_rows.layers, full.layers, strict=True):
        for head in range(layer.keys.shape[1]):
            old, new = set(places(before, whole, head)), places(layer, whole, head)
            assert old < set(new) and len(new) == len(old) + 9
            assert torch.equal(layer.values[0, head], whole.values[0, head, new])
            if choose == OLDEST:
                assert set(new) - old == set(sorted(set(range(N)) - old)[:9])


def test_the_wanted_ones_are_those_that_eager_attention_looks_at(tiny):
    ids = [*PROMPT, *OUTPUT]
    without, full = caches(tiny, press(0), ids)
    wanted, _ = caches(tiny, press(5), ids)
    tiny.model.set_attn_implementation("eager")
    try:
        attention = tiny.model(torch.tensor([ids]), output_attentions=True).attentions
    finally:
        tiny.model.set_attn_implementation("sdpa")
    for index, (before, layer, whole) in enumerate(
        zip(without.layers, wanted.layers, full.layers, strict=True)
    ):
        groups = layer.keys.shape[1]
        looks = attention[index][0, :, -QUERIES:, :N].mean(1).view(groups, -1, N).mean(1)
        for head in range(groups):
            old = places(before, whole, head)
            evicted = sorted(set(range(N - QUERIES)) - set(old), key=lambda place: -looks[head, place])
            assert set(places(layer, whole, head)) - set(old) == set(evicted[:5])


def test_all_rows_back_is_the_full_cache(tiny):
    ids = [*PROMPT, *OUTPUT]
    compressed, full = caches(tiny, press(10 * N, base=KnormPress(0.5)), ids)
    for layer, whole in zip(compressed.layers, full.layers, strict=True):
        assert torch.equal(layer.keys, whole.keys) and torch.equal(layer.values, whole.values)


@pytest.mark.parametrize("choose", CHOICES)
def test_batches_are_exact(tiny, choose):
    base = SnapKVPress(0.5, window_size=16)
    made = [press(7, choose, base) for _ in range(2)]
    ids = [[*PROMPT, *OUTPUT], [*PROMPT, *OUTPUT[:3]]]
    requests = [Request(tokens, one, seed) for seed, (tokens, one) in enumerate(zip(ids, made, strict=True))]
    for run in generate(tiny, requests, Settings(16, 2)):
        assert run.error is None
        assert run.token_ids == alone(tiny, ids[run.index], press(7, choose, base), run.index, 16)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((KnormPress(0.5), 10, 3, "nearest"), "choose 'nearest' does not fit"),
        ((KnormPress(0.5), 10, 3, OTHER), "does not fit other prompt 0 tokens long"),
        ((KnormPress(0.5), 10, -1, RANDOM), "rows -1"),
    ],
)
def test_what_it_cannot_be(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        RestoreRowsPress(*arguments)
