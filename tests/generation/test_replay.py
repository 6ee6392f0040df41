"""A replay gives what each step of the run saw, by transformers and kvpress alone."""

import kvpress
import numpy as np
import pytest
import torch
from reference import tiny_llama
from transformers import DynamicCache

from kvhelpers.errors import InputError
from kvhelpers.generation.inner_signals import (
    against_full,
    attending,
    course,
    evicted,
    inside,
)
from kvhelpers.generation.replay import Replayer, attention
from kvhelpers.generation.requests import Request
from kvhelpers.models.load import LanguageModel
from kvhelpers.records import EVICTED, LAST_QUERIES

PROMPTS = [[5 + (7 * i + 3 * j * j) % 250 for j in range(40)] for i in range(2)]
PROMPTS = [[9] * 5 + list(range(10, 26)) + prompt for prompt in PROMPTS]  # with a common beginning
TOKENS = [11, 60, 61, 62, 60, 61, 62, 90, 4, 17, 33]
PRESSES = [
    kvpress.StreamingLLMPress(0.5),
    kvpress.KnormPress(0.5),
    kvpress.SnapKVPress(0.5, window_size=8),
    kvpress.TOVAPress(0.75),
    kvpress.RandomPress(0.5),
]


class Halving(kvpress.KnormPress):
    """Halves the keys that it keeps."""

    def compress(self, *args):
        keys, values = super().compress(*args)
        return keys / 2, values


@pytest.fixture(scope="module")
def replayer(tiny):
    return Replayer(tiny, PROMPTS)


def request(press, prompt=PROMPTS[0]):
    return Request(token_ids=prompt, press=press, seed=3)


@torch.inference_mode()
def step_by_step(lm, press, seed=3):
    """Logits, middle and last hidden states and attention of each step, one token at a time."""
    model, cache = tiny_eager(lm), DynamicCache(config=lm.model.config)
    torch.manual_seed(seed)
    with press(model):
        model(torch.tensor([PROMPTS[0]]), past_key_values=cache)
    steps = []
    for place, token in enumerate(TOKENS[:-1]):
        out = model(
            torch.tensor([[token]]),
            position_ids=torch.tensor([[len(PROMPTS[0]) + place]]),
            past_key_values=cache,
            output_hidden_states=True,
            output_attentions=True,
        )
        steps.append(out)
    return steps


def tiny_eager(lm):
    model = tiny_llama()
    model.load_state_dict(lm.model.state_dict())
    model.set_attn_implementation("eager")
    return model.eval()


@pytest.mark.parametrize("press", PRESSES, ids=lambda press: type(press).__name__)
def test_a_replay_is_the_run_step_by_step(tiny, replayer, press):
    start = replayer.prefill(request(press))
    run = replayer.feed(start.compressed, TOKENS, len(PROMPTS[0]), watch=True)
    steps = step_by_step(tiny, press)
    expected = torch.cat([out.logits[0] for out in steps])
    torch.testing.assert_close(run.logits, expected, rtol=1e-3, atol=1e-4)
    for index, states in run.hidden.items():
        whole = torch.cat([out.hidden_states[index][0] for out in steps])
        torch.testing.assert_close(states, whole, rtol=1e-3, atol=1e-4)
    held = start.places[0].shape[1]
    for layer, weights in run.attention.items():
        for place, out in enumerate(steps):
            theirs = out.attentions[layer][0, :, 0]
            seen = weights[:, place, : held + place + 1]
            for part in (slice(held), slice(held, None)):  # kept keys of like norms may change places
                ours, reference = (part_of[:, part].sort(-1).values for part_of in (seen, theirs))
                torch.testing.assert_close(ours, reference, rtol=1e-3, atol=1e-4)
            assert (weights[:, place, held + place + 1 :] == 0).all()


def test_kept_places_and_scores_are_the_press_s(tiny, replayer):
    press = kvpress.KnormPress(0.5)
    start = replayer.prefill(request(press))
    cache = DynamicCache(config=tiny.model.config)
    with torch.inference_mode():
        tiny.model(torch.tensor([PROMPTS[0]]), past_key_values=cache)
    for layer, keys in enumerate(cache.layers):
        norms = keys.keys[0].norm(dim=-1)
        kept = norms.topk(start.places[layer].shape[1], largest=False).indices
        assert [set(row) for row in kept.tolist()] == [set(row) for row in start.places[layer].tolist()]
        torch.testing.assert_close(start.scores[layer], -norms, rtol=1e-4, atol=1e-6)


def test_the_last_queries_attend_as_in_the_prompt_s_own_pass(tiny, replayer):
    start = replayer.prefill(request(kvpress.SnapKVPress(0.5, window_size=8)))
    with torch.inference_mode():
        out = tiny_eager(tiny)(torch.tensor([PROMPTS[0]]), output_attentions=True)
    for layer, queries in start.last.items():
        weights = attention(replayer.modules[layer], queries, start.keys[layer])
        theirs = out.attentions[layer][0, :, -LAST_QUERIES:]
        torch.testing.assert_close(weights, theirs, rtol=1e-3, atol=1e-4)


def test_without_a_press_nothing_is_evicted_and_nothing_diverges(replayer):
    start = replayer.prefill(request(None))
    run = replayer.feed(start.compressed, TOKENS, len(PROMPTS[0]), watch=True)
    full = replayer.feed(start.full, TOKENS, len(PROMPTS[0]), watch=False)
    assert np.abs(against_full(full.logits, run.logits, TOKENS)).max() < 1e-6
    assert np.isnan(evicted(replayer, start)).all()


def test_what_is_evicted_is_counted(replayer):
    """StreamingLLM keeps the first 4 and the last tokens."""
    start = replayer.prefill(request(kvpress.StreamingLLMPress(0.5)))
    found = dict(zip(EVICTED, evicted(replayer, start).tolist(), strict=True))
    n, first = len(PROMPTS[0]), replayer.beginning
    kept = {*range(4), *range(n - (int(n * 0.5) - 4), n)}
    assert first == 21 and found["heads_agree"] == 1
    assert found["evicted_examples"] == pytest.approx(1 - len(kept & set(range(first))) / first)
    assert found["evicted_question"] == pytest.approx(1 - len(kept & set(range(first, n))) / (n - first))
    norms = torch.stack([values.norm(dim=-1) for values in start.values])
    gone = [place for place in range(n) if place not in kept]
    share = (norms[:, :, gone].sum((1, 2)) / norms.sum((1, 2))).mean()
    assert found["evicted_value_share"] == pytest.approx(float(share), rel=1e-5)


def test_signals_by_their_definitions(replayer):
    start = replayer.prefill(request(kvpress.KnormPress(0.5)))
    run = replayer.feed(start.compressed, TOKENS, len(PROMPTS[0]), watch=True)
    full = replayer.feed(start.full, TOKENS, len(PROMPTS[0]), watch=False)
    logits = torch.cat([start.logits[None], run.logits]).double()
    p, q = logits.softmax(-1), full.logits.double().softmax(-1)
    for t in range(1, len(TOKENS)):
        kl, jaccard = course(logits.float())[t - 1]
        assert kl == pytest.approx(float((p[t] * (p[t] / p[t - 1]).log()).sum()), rel=1e-3)
        best = [set(p[step].topk(10).indices.tolist()) for step in (t, t - 1)]
        assert jaccard == pytest.approx(len(best[0] & best[1]) / len(best[0] | best[1]))
        divergence, gap, chosen = against_full(full.logits, run.logits, TOKENS)[t - 1]
        assert divergence == pytest.approx(
            float((q[t - 1] * (q[t - 1] / p[t]).log()).sum()), rel=1e-3, abs=1e-6
        )
        entropies = [-float((d * d.log()).sum()) for d in (p[t], q[t - 1])]
        assert gap == pytest.approx(entropies[0] - entropies[1], abs=1e-5)
        assert chosen == pytest.approx(float((p[t] / q[t - 1]).log()[TOKENS[t]]), abs=1e-5)
    states = run.hidden[replayer.middle].double()
    cosines = torch.nn.functional.cosine_similarity(states[:, None], states[None], dim=-1)
    middle = inside(run)[:, :3]
    assert np.isnan(middle[0]).all() and np.isnan(middle[1, 1:]).all()
    for t in range(2, len(states)):
        nearest = int(cosines[t, : t - 1].argmax())
        assert middle[t] == pytest.approx(
            [float(cosines[t, t - 1]), float(cosines[t, nearest]), t - nearest], rel=1e-5
        )
    shares = attending(run, start).reshape(len(TOKENS) - 1, 3, 4)
    np.testing.assert_allclose(shares[:, :, :3].sum(-1), 1, rtol=1e-5)


def test_a_signal_does_not_see_later_tokens(replayer):
    """The same run cut short gives the same beginning."""

    def signals(tokens):
        start = replayer.prefill(request(kvpress.TOVAPress(0.5)))
        run = replayer.feed(start.compressed, tokens, len(PROMPTS[0]), watch=True)
        full = replayer.feed(start.full, tokens, len(PROMPTS[0]), watch=False)
        logits = torch.cat([start.logits[None], run.logits])
        parts = (
            course(logits),
            inside(run),
            attending(run, start),
            against_full(full.logits, run.logits, tokens),
        )
        return np.concatenate(parts, axis=1)

    np.testing.assert_allclose(signals(TOKENS)[:4], signals(TOKENS[:5]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("press", "reason"),
    [
        (kvpress.DecodingPress(kvpress.KnormPress(0.5)), "acts while decoding"),
        (kvpress.AdaKVPress(kvpress.KnormPress(0.5)), "masks keys"),
        (Halving(0.5), "changes the keys"),
    ],
)
def test_runs_that_cannot_be_replayed_are_refused(replayer, press, reason):
    with pytest.raises(InputError, match=reason):
        replayer.prefill(request(press))


def test_a_model_with_windows_is_refused(tiny):
    model = tiny_llama()
    model.config.sliding_window = 8
    model.config.layer_types = ["sliding_attention"] * len(model.model.layers)
    windowed = LanguageModel(
        "windowed", model, tiny.tokenizer, tiny.stop_ids, "cpu", "float32", "sdpa", "random"
    )
    with pytest.raises(InputError, match="sliding window"):
        Replayer(windowed, PROMPTS)
