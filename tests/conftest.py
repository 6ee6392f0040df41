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


def pytest_terminal_summary(terminalreporter):
    """Print the table of `test_matrix`, and why some of its cells are not equal."""
    reports = [one for some in terminalreporter.stats.values() for one in some if isinstance(one, pytest.TestReport)]
    found = [value for report in reports if report.when == "call" for name, value in report.user_properties if name == MATRIX]
    if not found:
        return
    cells = pd.DataFrame(found, columns=["family", "press", "told"])
    cells["short"] = cells["told"].str.partition(":")[0]
    terminalreporter.section("presses by models")
    table = cells.pivot(index="family", columns="press", values="short").reindex(index=cells["family"].unique())
    terminalreporter.write_line(table[list(cells["press"].unique())].to_string())
    for reason, part in cells[cells["told"] != cells["short"]].groupby("told", sort=False):
        where = ", ".join(f"{cell.family} × {cell.press}" for cell in part.itertuples())
        terminalreporter.write_line(f"{where}: {reason}")
