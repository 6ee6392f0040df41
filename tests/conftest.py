"""Fixtures: a tiny random-weight model for unit tests, the embedded model for smoke tests; a temporary output folder."""

import os
import tempfile

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

os.environ["KVHELPERS_OUTPUT"] = tempfile.mkdtemp(prefix="kvhelpers-tests-")  # before any test: notebook kernels inherit it

from kvhelpers.models import LanguageModel, load_model


def pytest_collection_modifyitems(items):
    """Progress bars and warnings go to stderr and differ every time: nbval must not compare them."""
    for item in items:
        if hasattr(item.parent, "skip_compare") and "stderr" not in item.parent.skip_compare:
            item.parent.skip_compare += ("stderr",)


@pytest.fixture(scope="session")
def embedded() -> LanguageModel:
    return load_model("smollm2-135m", device="cpu")


def tiny_llama(**changes) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 300,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "initializer_range": 0.3,
        "max_position_embeddings": 512,
    }
    return LlamaForCausalLM(LlamaConfig(**(sizes | changes))).eval()


@pytest.fixture(scope="session")
def tiny(embedded) -> LanguageModel:
    """Random weights over the embedded tokenizer's first 300 tokens; id 2 ends."""
    return LanguageModel("tiny", tiny_llama(), embedded.tokenizer, frozenset({2}), "cpu", "float32", "sdpa", "random")


@pytest.fixture
def output(tmp_path, monkeypatch):
    """An empty output folder of the test's own."""
    monkeypatch.setenv("KVHELPERS_OUTPUT", str(tmp_path))
    return tmp_path
