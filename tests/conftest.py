"""Fixtures: a tiny random-weight model for unit tests, the embedded model for smoke tests; a temporary output folder."""

import pytest
from reference import tiny_llama

from kvhelpers.models import LanguageModel, load_model


@pytest.fixture(scope="session")
def embedded() -> LanguageModel:
    return load_model("smollm2-135m", device="cpu")


@pytest.fixture(scope="session")
def tiny(embedded) -> LanguageModel:
    """Random weights over the embedded tokenizer's first 300 tokens; id 2 ends."""
    return LanguageModel("tiny", tiny_llama(), embedded.tokenizer, frozenset({2}), "cpu", "float32", "sdpa", "random")


@pytest.fixture
def output(tmp_path, monkeypatch):
    """An empty output folder of the test's own."""
    monkeypatch.setenv("KVHELPERS_OUTPUT", str(tmp_path))
    return tmp_path
