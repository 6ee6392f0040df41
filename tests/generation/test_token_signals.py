import numpy as np
import pytest
import torch
from reference import signals_in_float64
from scipy.special import softmax
from scipy.stats import entropy

from kvhelpers.generation.token_signals import canary_signals, entropy_change, token_signals
from kvhelpers.records import SCALARS


@pytest.mark.parametrize("scale", (0.1, 1.0, 5.0, 30.0))
@pytest.mark.parametrize("vocabulary", (50, 5000))
def test_signals_follow_their_definitions(scale, vocabulary):
    logits = torch.randn(4, vocabulary, generator=torch.Generator().manual_seed(0)) * scale
    chosen = torch.tensor([int(logits[0].argmax()), 1, 2, 3])
    scalars, logprobs, ids = token_signals(logits, chosen)
    for row, expected in enumerate(signals_in_float64(logits, chosen)):
        for column, name in enumerate(SCALARS):
            assert scalars[row, column].item() == pytest.approx(expected[name], rel=1e-4, abs=1e-5), name
        np.testing.assert_allclose(logprobs[row], expected["top20"], rtol=1e-5, atol=1e-5)
        assert ids[row, 0] == logits[row].argmax()


def test_a_certain_token_has_exact_alternatives():
    """At a margin of 60 nats the first token's probability rounds to one; the alternatives' entropy must not
    be lost.
    """
    logits = torch.zeros(1, 1000)
    logits[0, 7] = 60.0
    scalars, _, _ = token_signals(logits, torch.tensor([7]))
    signals = dict(zip(SCALARS, scalars[0].tolist(), strict=True))
    assert signals["alt_entropy"] == pytest.approx(np.log(999), rel=1e-6)
    assert signals["top1_prob"] == 1 and 0 <= signals["entropy"] < 1e-20 and signals["varentropy"] >= 0


def test_uniform_distribution():
    scalars, _, _ = token_signals(torch.zeros(1, 512), torch.tensor([3]))
    signals = dict(zip(SCALARS, scalars[0].tolist(), strict=True))
    assert signals["entropy"] == pytest.approx(np.log(512), rel=1e-6)
    assert signals["varentropy"] == pytest.approx(0, abs=1e-4) and signals["margin"] == 0


@pytest.mark.parametrize("possible", [2, 3, 12, 49])
def test_a_token_without_probability_changes_no_other_s_signals(possible):
    """Logits of -inf among them, against the definitions on the finite part."""
    finite = torch.randn(4, possible, generator=torch.Generator().manual_seed(possible)) * 4
    logits = torch.full((4, 50), -torch.inf)
    places = torch.randperm(50, generator=torch.Generator().manual_seed(0))[:possible]
    logits[:, places] = finite
    scalars, logprobs, ids = token_signals(logits, places[torch.tensor([0, 1, 0, 1])])
    for row, expected in enumerate(signals_in_float64(finite, torch.tensor([0, 1, 0, 1]))):
        for column, name in enumerate(SCALARS):
            assert scalars[row, column].item() == pytest.approx(expected[name], rel=1e-4, abs=1e-5), name
        listed = min(possible, 20)
        np.testing.assert_allclose(logprobs[row, :listed], expected["top20"], rtol=1e-5, atol=1e-5)
        assert (logprobs[row, listed:] == -torch.inf).all()
        assert len(set(ids[row].tolist())) == 20


def test_one_possible_token_is_certain():
    logits = torch.full((1, 50), -torch.inf)
    logits[0, 7] = -3.0
    signals = dict(zip(SCALARS, token_signals(logits, torch.tensor([7]))[0][0].tolist(), strict=True))
    assert signals["margin"] == np.inf
    assert signals["top1_prob"] == signals["top5_mass"] == 1
    assert [signals[name] for name in ("entropy", "varentropy", "alt_entropy", "chosen_logprob")] == [0] * 4


def test_ordinary_logits_have_the_signals_that_they_had():
    """To the last bit: the same sums without any care for what is not finite."""
    logits = torch.randn(8, 5000, generator=torch.Generator().manual_seed(3)) * 6
    full, chosen = logits.flip(0), torch.arange(8)
    top = logits.topk(20).values
    margin, below = top[:, 0] - top[:, 1], logits - top[:, 1:2]
    weight = below.exp().scatter_(1, logits.argmax(-1)[:, None], 0.0)
    s0, s1, s2 = weight.sum(-1), (weight * below).sum(-1), (weight * below * below).sum(-1)
    scale = torch.exp(-margin)
    total, log_total = 1 + scale * s0, torch.log1p(scale * s0)
    first = scale * (s1 - margin * s0) / total
    second = scale * (s2 - 2 * margin * s1 + margin.square() * s0) / total
    scalars = dict(zip(SCALARS, token_signals(logits, chosen)[0].unbind(-1), strict=True))
    assert torch.equal(scalars["entropy"], log_total - first)
    assert torch.equal(scalars["varentropy"], (second - first.square()).clamp_min(0))
    assert torch.equal(scalars["alt_entropy"], s0.log() - s1 / s0)
    p, q = full.log_softmax(-1), logits.log_softmax(-1)
    kl, entropy, _ = canary_signals(full, logits, chosen).unbind(-1)
    assert torch.equal(kl, (p.exp() * (p - q)).sum(-1).clamp_min(0))
    assert torch.equal(entropy, -(p.exp() * p).sum(-1))


def test_the_canary_counts_no_token_without_probability():
    full, logits = torch.randn(2, 3, 40, generator=torch.Generator().manual_seed(5)) * 3
    masked = [torch.cat([part, torch.full((3, 10), -torch.inf)], -1) for part in (full, logits)]
    chosen = torch.tensor([1, 2, 3])
    p, q = (softmax(part.double().numpy(), axis=-1) for part in (full, logits))
    kl, own, chosen_logprob = canary_signals(*masked, chosen).unbind(-1)
    np.testing.assert_allclose(kl, entropy(p, q, axis=-1), rtol=1e-4)
    np.testing.assert_allclose(own, entropy(p, axis=-1), rtol=1e-4)
    np.testing.assert_allclose(chosen_logprob, np.log(p[range(3), chosen]), rtol=1e-4)
    logits[:, 5] = -torch.inf  # what the full cache's distribution does not exclude
    assert (canary_signals(full, logits, chosen)[:, 0] == torch.inf).all()
    assert not canary_signals(logits, full, chosen).isnan().any()


@pytest.mark.parametrize("bad", [[float("nan")], [float("inf")], [float("inf")] * 2])
def test_logits_that_are_no_distribution_are_visible(bad):
    for others in (0.0, -torch.inf):
        logits = torch.full((1, 50), others)
        logits[0, 4 : 4 + len(bad)] = torch.tensor(bad)
        assert token_signals(logits, torch.tensor([0]))[0].isnan().any()
    assert token_signals(torch.full((1, 50), -torch.inf), torch.tensor([0]))[0].isnan().any()


def test_entropy_change_has_no_first_value():
    change = entropy_change(np.array([1.0, 3.0, 2.5], dtype=np.float32))
    assert np.isnan(change[0]) and change[1:].tolist() == [2.0, -0.5]
