"""Committed signals are those of the model in double precision: transformers and kvpress read one prompt
alone, then its answer's tokens at once, and the definitions are computed one by one.

Knorm is not among the presses: in the first layer the keys of equal tokens have equal norms, so that rounding
chooses between them, and another precision keeps others.
"""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from reference import kvpress_cache, signals_in_float64, with_attention

from kvhelpers.experiment.results import read_experiment
from kvhelpers.experiment.run import prompts_of
from kvhelpers.generation.attention import attention_implementation
from kvhelpers.paths import samples_dir
from kvhelpers.records import SCALARS

SAMPLE = "002-compression-sweep"
CLOSE = 1e-4  # nats and probabilities; of varentropy nats²
PROMPT = 7


@pytest.fixture(scope="module")
def double(embedded):
    """The embedded model in float64."""
    return dataclasses.replace(embedded, model=copy.deepcopy(embedded.model).double(), packed=None)


@pytest.mark.parametrize(
    "label",
    [
        "streaming_llm 0.5",
        pytest.param("none", marks=pytest.mark.slow),
        pytest.param("snapkv 0.5", marks=pytest.mark.slow),
        pytest.param("tova 0.75", marks=pytest.mark.slow),
        pytest.param("expected_attention 0.5", marks=pytest.mark.slow),
    ],
)
def test_committed_signals_are_those_of_double_precision(label, double):
    (result,) = (result for result in read_experiment(SAMPLE, samples_dir()) if result.label == label)
    lm = with_attention(double, result.condition.press_spec)
    ids = list(prompts_of(result.condition, lm)[PROMPT].token_ids)
    signals = result.signals()
    signals = signals[signals["prompt_index"] == PROMPT]
    tokens = torch.tensor(signals["token_id"].tolist())
    cache, first = kvpress_cache(lm, ids, result.condition.press_spec.for_prompt(len(ids)), PROMPT)
    places = torch.arange(len(ids), len(ids) + len(tokens) - 1)
    with torch.no_grad(), attention_implementation(lm.model, lm.attn):
        rest = lm.model(tokens[None, :-1], past_key_values=cache, position_ids=places[None]).logits[0]
    logits = torch.cat([first[None], rest])
    assert logits.dtype == torch.float64 and (logits.argmax(-1) == tokens).all() and len(tokens) > 10
    expected = signals_in_float64(logits, tokens)
    for name in SCALARS:
        np.testing.assert_allclose(
            signals[name], [row[name] for row in expected], rtol=CLOSE, atol=CLOSE, err_msg=name
        )
