"""Fixtures: a tiny random-weight model for unit tests, the embedded model for smoke tests; a temporary output folder."""

import pandas as pd
import pytest
from reference import MATRIX, tiny_llama

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


def pytest_terminal_summary(terminalreporter, config):
    """Print the table of `test_matrix`, and why some of its cells are not equal."""
    if found := config.stash.get(MATRIX, None):
        table = pd.DataFrame(found).T.fillna("")
        terminalreporter.section("presses by models")
        terminalreporter.write_line(table.map(lambda told: told.partition(":")[0]).to_string())
        for reason, cells in table.stack().groupby(table.stack()):
            if ":" in reason:
                where = ", ".join(f"{family} × {press}" for family, press in cells.index)
                terminalreporter.write_line(f"{where}: {reason}")
