"""A folder with a tiny model, and a cache folder of the test's own."""

import pytest
from reference import tiny_llama


@pytest.fixture
def folder(tmp_path, embedded):
    folder = tmp_path / "model"
    tiny_llama().save_pretrained(folder)
    embedded.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def cache(tmp_path, embedded, monkeypatch):
    """An empty cache folder; the embedded model is loaded already, from the other one."""
    monkeypatch.setenv("KVHELPERS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
