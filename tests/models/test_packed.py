"""Packed weights give the same products, and are there only where they can be used."""

import copy

import psutil
import pytest
import torch
from reference import tiny_llama
from torch import nn

from kvhelpers.models.packed import linears, pack, using


@pytest.fixture
def model():
    """A tiny model, some of whose layers have a bias."""
    return tiny_llama(attention_bias=True, mlp_bias=True)


@pytest.mark.parametrize("rows", (1, 2, 7, 40))
def test_products_are_the_same(model, rows):
    ids = torch.randint(3, 300, (rows, 1), generator=torch.Generator().manual_seed(rows))
    packed = pack(model)
    with torch.inference_mode():
        plain = model(ids).logits
        with using(packed):
            torch.testing.assert_close(model(ids).logits, plain, rtol=1e-4, atol=1e-4)
        assert torch.equal(model(ids).logits, plain)  # as before once the context is left


def test_weights_that_layers_share_are_packed_once(model):
    tied = tiny_llama(tie_word_embeddings=True)
    names = [name for name, _ in tied.named_parameters()]
    assert "lm_head.weight" not in names
    assert pack(tied).nbytes == sum(layer.weight.nbytes for layer in linears(tied))
    shared = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    shared[1].weight = shared[0].weight
    assert pack(shared).nbytes == 8 * 8 * 4


def test_layers_that_do_more_than_multiply_are_left_alone():
    class Doubled(nn.Linear):
        def forward(self, rows):
            return 2 * super().forward(rows)

    assert linears(nn.Sequential(Doubled(4, 4), nn.Linear(4, 4), nn.ReLU())) != []
    assert [type(layer) for layer in linears(nn.Sequential(Doubled(4, 4), nn.Linear(4, 4)))] == [nn.Linear]


def test_an_error_inside_leaves_the_model_as_it_was(model):
    packed = pack(model)
    with pytest.raises(KeyError), using(packed):
        raise KeyError
    assert all("forward" not in vars(layer) for layer in linears(model))


def test_without_packed_weights_a_model_stays_as_it_is(model):
    with using(None):
        assert all("forward" not in vars(layer) for layer in linears(model))


def test_what_cannot_be_packed_stays_plain(model, monkeypatch):
    assert pack(copy.deepcopy(model).to(torch.bfloat16)) is None
    assert pack(copy.deepcopy(model).to("meta")) is None
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert pack(model) is None


def test_memory_that_is_short_is_not_taken(model, monkeypatch):
    memory = psutil.virtual_memory()._replace(available=1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    assert pack(model) is None
