"""Fixtures: a tiny random-weight model for unit tests, the embedded model for smoke tests; a temporary output
folder.

What went through a model is compared to a bound that stands beside it: the rounding depends on the processor
and the batch, and 1e-4 is what is promised of signals in float32. `approx` without a bound, 1e-6 relative, is
for arithmetic in double precision on the same numbers.
"""

from dataclasses import replace

import pandas as pd
import pytest
import yaml
from factories import SMALL_EXPERIMENT
from reference import MATRIX, save_answering, tiny_llama

from kvhelpers.generation.self_check import check_model
from kvhelpers.models.load import LanguageModel, load_model
from kvhelpers.models.packed import pack


@pytest.fixture(scope="session")
def embedded() -> LanguageModel:
    return load_model("smollm2-135m", device="cpu")


@pytest.fixture(scope="session")
def stand_in(embedded) -> LanguageModel:
    """Random weights under the embedded model's name, with its tokenizer: for tests that do not ask what a
    model says, a hundred times faster.
    """
    model = tiny_llama(vocab_size=len(embedded.tokenizer), max_position_embeddings=8192)
    return replace(embedded, model=model, packed=pack(model))


@pytest.fixture(scope="session")
def counting(tmp_path_factory) -> LanguageModel:
    """A model in a folder, for other processes too, that counts to 59 and ends, whatever it is asked."""
    pieces = [f" {number}" for number in range(1, 60)]
    return load_model(str(save_answering(tmp_path_factory.mktemp("counting"), pieces)), device="cpu")


@pytest.fixture(scope="session")
def tiny(embedded) -> LanguageModel:
    """Random weights over the embedded tokenizer's first 300 tokens; id 2 ends."""
    model, stops = tiny_llama(), frozenset({2})
    lm = LanguageModel(
        "tiny", model, embedded.tokenizer, stops, "cpu", "float32", "sdpa", "random", pack(model)
    )
    for attn in ("sdpa", "eager"):  # before a test breaks something on purpose
        check_model(lm.attending(attn), pressed=True)
    return lm


@pytest.fixture
def output(tmp_path, monkeypatch):
    """An empty output folder of the test's own."""
    monkeypatch.setenv("KVHELPERS_OUTPUT", str(tmp_path))
    return tmp_path


@pytest.fixture
def write(tmp_path):
    """Writes a small experiment's file, with some of its keys changed, and returns its path."""

    def write(**changes):
        path = tmp_path / "experiment.yaml"
        path.write_text(yaml.safe_dump(SMALL_EXPERIMENT | changes))
        return path

    return write


def pytest_terminal_summary(terminalreporter):
    """Print the table of `test_matrix`, and why some of its combinations are not equal."""
    reports = [
        report
        for some in terminalreporter.stats.values()
        for report in some
        if isinstance(report, pytest.TestReport) and report.when == "call"
    ]
    rows = [value for report in reports for name, value in report.user_properties if name == MATRIX]
    if not rows:
        return
    table = pd.DataFrame(rows, columns=["family", "press", "outcome"])
    table["short"] = table["outcome"].str.partition(":")[0]
    terminalreporter.section("presses by models")
    wide = table.pivot(index="family", columns="press", values="short")
    wide = wide.reindex(index=table["family"].unique(), columns=table["press"].unique())
    terminalreporter.write_line(wide.to_string())
    table["reason"] = table["outcome"].str.partition("; supported are")[0]
    for reason, part in table[table["reason"] != table["short"]].groupby("reason", sort=False):
        where = ", ".join(f"{row.family} × {row.press}" for row in part.itertuples())
        terminalreporter.write_line(f"{where}: {reason}")
