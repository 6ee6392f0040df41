import numpy as np
import pytest
import torch
from reference import signals_in_float64

from kvhelpers.generation.token_signals import entropy_change, token_signals
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


def test_not_finite_logits_are_visible():
    for bad in (float("nan"), float("inf")):
        logits = torch.zeros(1, 50)
        logits[0, 4] = bad
        assert not torch.isfinite(token_signals(logits, torch.tensor([0]))[0]).all()


def test_entropy_change_has_no_first_value():
    change = entropy_change(np.array([1.0, 3.0, 2.5], dtype=np.float32))
    assert np.isnan(change[0]) and change[1:].tolist() == [2.0, -0.5]
