"""Recorded steps. A trace of a step's tensor operations is replayed here: like a CUDA graph it reads and
writes fixed places, and whatever Python worked out while it was recorded stays as it was."""

import pytest
import torch
from reference import generate_all, random_prompts
from torch.fx.experimental.proxy_tensor import make_fx

from kvhelpers.generation import batch
from kvhelpers.generation.cuda_graphs import CheckedRecorder, recorder_for
from kvhelpers.presses.spec import PressSpec


def traced(step):
    graph = make_fx(step)()
    return lambda: graph()


def record_with(monkeypatch, recorder):
    monkeypatch.setattr(batch, "recorder_for", lambda device: recorder)


@pytest.mark.parametrize(
    "spec",
    (
        PressSpec("none", 0.0),
        PressSpec("PyramidKVPress", 0.5, kwargs={"window_size": 8}),
        PressSpec("AdaKVPress", 0.5, kwargs={"press": {"name": "knorm"}}),
    ),
    ids=lambda spec: spec.name,
)
def test_replayed_steps_give_the_same_tokens(tiny, monkeypatch, spec):
    """Rows of different lengths join, leave and outgrow their buffers; empty slots are computed in vain."""
    prompts, records = random_prompts(7), []

    def counting(step):
        records.append(1)
        return traced(step)

    plain = [r.token_ids for r in generate_all(tiny, prompts, spec, 60, batch_size=5)]
    record_with(monkeypatch, CheckedRecorder(counting))
    assert [r.token_ids for r in generate_all(tiny, prompts, spec, 60, batch_size=5)] == plain
    assert 0 < len(records) < 20


def test_a_step_that_cannot_be_recorded_is_run_plainly(tiny, monkeypatch):
    def fails(step):
        raise RuntimeError("operation not permitted when stream is capturing")

    prompts, spec = random_prompts(3), PressSpec("none", 0.0)
    plain = [r.token_ids for r in generate_all(tiny, prompts, spec, 12)]
    record_with(monkeypatch, CheckedRecorder(fails))
    with pytest.warns(UserWarning, match="cannot be recorded .operation not permitted") as warned:
        assert [r.token_ids for r in generate_all(tiny, prompts, spec, 12)] == plain
    assert len(warned) == 1


def test_a_replay_with_other_logits_is_dropped(tiny, monkeypatch):
    prompts, spec = random_prompts(3), PressSpec("none", 0.0)
    plain = [r.token_ids for r in generate_all(tiny, prompts, spec, 12)]
    record_with(monkeypatch, CheckedRecorder(lambda step: lambda: step() + 1))
    with pytest.warns(UserWarning, match="gives other logits when replayed"):
        assert [r.token_ids for r in generate_all(tiny, prompts, spec, 12)] == plain


def test_no_memory_for_a_record_is_no_memory(tiny, monkeypatch):
    def full(step):
        raise torch.OutOfMemoryError("no memory for a record")

    record_with(monkeypatch, CheckedRecorder(full))
    results = generate_all(tiny, random_prompts(2), PressSpec("none", 0.0), 4)
    assert {r.error for r in results} == {"out of memory: no memory for a record"}


def test_steps_are_recorded_on_cuda_only():
    assert recorder_for("cpu") is recorder_for("mps") is None and recorder_for("cuda") is not None
