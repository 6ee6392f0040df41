"""The canary against what transformers gives with the whole context and with the compressed cache."""

import numpy as np
import pytest
import torch
from reference import generate_all, kvpress_cache, with_attention
from scipy.special import log_softmax, rel_entr, softmax
from scipy.stats import entropy

from kvhelpers.presses.spec import PressSpec
from kvhelpers.records import CANARY

TOKENS = 3
PROMPTS = [[5 + (7 * i + 3 * p) % 250 for i in range(40 + 5 * p)] for p in range(5)]


def runs_of(lm, spec, batch_size, canary_tokens):
    return generate_all(with_attention(lm, spec), PROMPTS, spec, 8, batch_size, canary_tokens=canary_tokens)


def expected(lm, prompt, tokens, press, seed):
    """KL divergence, full entropy and the chosen token's full log-probability at each new token but the
    first, by scipy.
    """
    cache, _ = kvpress_cache(lm, prompt, press, seed)
    with torch.no_grad():
        full = lm.model(torch.tensor([prompt + tokens])).logits[0].double().numpy()
        rows = []
        for step, token in enumerate(tokens[:-1]):
            position = torch.tensor([[len(prompt) + step]])
            own = (
                lm.model(torch.tensor([[token]]), past_key_values=cache, position_ids=position)
                .logits[0, -1]
                .double()
                .numpy()
            )
            whole = full[len(prompt) + step]
            divergence = rel_entr(softmax(whole), softmax(own)).sum()
            rows.append((divergence, entropy(softmax(whole)), log_softmax(whole)[tokens[step + 1]]))
    return np.array(rows)


@pytest.mark.parametrize("press", ["streaming_llm", "snapkv", "observed_attention", "random"])
@pytest.mark.parametrize("batch_size", [2, 5])
def test_canary_is_the_divergence_from_the_full_cache(tiny, press, batch_size):
    spec = PressSpec(press, 0.5, kwargs={"window_size": 8} if press == "snapkv" else {})
    for run in runs_of(tiny, spec, batch_size, TOKENS):
        prompt = PROMPTS[run.index]
        lm = with_attention(tiny, spec)
        wanted = expected(lm, prompt, run.token_ids, spec.for_prompt(len(prompt)), run.index)[:TOKENS]
        measured = np.stack([run.signals[name] for name in CANARY], axis=1)
        assert measured[1 : 1 + len(wanted)] == pytest.approx(wanted, abs=2e-4)
        assert np.isnan(measured[0]).all() and np.isnan(measured[1 + TOKENS :]).all()


def test_canary_changes_no_token_and_is_missing_unless_asked_for(tiny):
    spec = PressSpec("knorm", 0.5)
    with_it, without = runs_of(tiny, spec, 3, TOKENS), runs_of(tiny, spec, 3, 0)
    assert [run.token_ids for run in with_it] == [run.token_ids for run in without]
    assert all(np.isnan(run.signals[name]).all() for run in without for name in CANARY)


def test_without_a_press_nothing_diverges(tiny):
    for run in runs_of(tiny, PressSpec("none"), 2, TOKENS):
        assert run.signals["canary_kl"][1 : 1 + TOKENS] == pytest.approx(0, abs=1e-5)
        assert run.signals["canary_entropy"][1 : 1 + TOKENS] == pytest.approx(
            run.signals["entropy"][1 : 1 + TOKENS], abs=1e-4
        )
