import pytest
import torch

from kvhelpers import batching
from kvhelpers.batching import auto_batch_size, row_bytes
from kvhelpers.slotcache import SlotCache


def test_a_row_is_not_estimated_below_what_it_takes(tiny):
    """Against the bytes of a real cache's buffers, grown token by token."""
    cache = SlotCache(tiny.model, 1)
    for layer in cache.layers:
        layer.put(0, torch.zeros(1, 2, 80, 16), torch.zeros(1, 2, 80, 16), None)
    cache.lengths = [[80] * len(cache.layers)]
    for _ in range(100):
        cache.step(tiny.model, [5], [cache.lengths[0][0]])
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert held <= row_bytes(tiny, 180) <= 2 * held


@pytest.mark.parametrize(("free", "expected"), ((0, 1), (2e6, 2), (1e15, 64)))
def test_batch_size_follows_free_memory(tiny, monkeypatch, free, expected):
    monkeypatch.setattr(batching, "free_bytes", lambda device: free)
    assert auto_batch_size(tiny, 300, 200) == expected


def test_longer_answers_leave_room_for_fewer(tiny, monkeypatch):
    monkeypatch.setattr(batching, "free_bytes", lambda device: 1e7)
    assert auto_batch_size(tiny, 300, 200) > auto_batch_size(tiny, 300, 2000) >= 1


def test_free_memory_is_measured():
    assert 1e6 < batching.free_bytes("cpu") < 1e15
