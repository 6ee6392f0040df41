from types import SimpleNamespace

import kvpress
import pytest
from reference import kvpress_cache, tiny_llama

from kvhelpers.errors import InputError
from kvhelpers.presses.kinds import falls_back, is_posthoc, observation_window, phases
from kvhelpers.presses.registry import ENTRIES, POSTHOC, PRESSES
from kvhelpers.presses.spec import PressSpec

DECODING = {"name": "DecodingPress", "base_press": {"name": "knorm"}, "target_size": 20}


def built(name, ratio=0.5, **kwargs):
    return PressSpec(name, ratio, kwargs=kwargs).for_prompt(9)


def test_posthoc_presses_are_named():
    assert {name for name in PRESSES if not is_posthoc(built(name))} == {"observed_attention"}
    assert len(POSTHOC) == len(PRESSES) - 1 and is_posthoc(None)
    assert is_posthoc(built("with_sink", press={"name": "knorm"}))
    assert not is_posthoc(built("with_sink", press={"name": "observed_attention"}))
    assert not is_posthoc(built("AdaKVPress", press={"name": "knorm"}))


def test_phases_keep_the_prompt_and_decoding_apart():
    knorm = built("knorm")
    assert phases(None) == (None, None) and phases(knorm) == (knorm, None)
    decoding = built("DecodingPress", 0.0, **{key: DECODING[key] for key in ("base_press", "target_size")})
    assert phases(decoding) == (None, decoding)
    both = built("PrefillDecodingPress", 0.25, prefilling_press={"name": "tova"}, decoding_press=DECODING)
    prefilling, cutting = phases(both)
    assert isinstance(prefilling, kvpress.TOVAPress) and prefilling.compression_ratio == 0.25
    assert isinstance(cutting, kvpress.DecodingPress) and cutting.target_size == 20


@pytest.mark.parametrize(
    ("name", "kwargs", "window"),
    [
        ("snapkv", {"window_size": 16}, 16),
        ("AdaKVPress", {"press": {"name": "snapkv", "window_size": 8}}, 8),
        ("with_sink", {"press": {"name": "snapkv"}}, 64),
        ("knorm", {}, None),
    ],
)
def test_observation_window_is_the_innermost_press_s(name, kwargs, window):
    assert observation_window(built(name, **kwargs)) == window
    assert observation_window(None) is None


KEYDIFF = {"press": {"name": "KeyDiffPress"}}
FALLS_BACK = [  # a press, whose work it does on short prompts, a ratio, the longest such prompt
    ("LagKVPress", {"lag_size": 32}, "streaming_llm", {}, 0.25, 67),
    ("PyramidKVPress", {"window_size": 8, "beta": 2}, "snapkv", {"window_size": 8}, 0.75, 60),
    ("ChunkPress", {**KEYDIFF, "chunk_length": 80}, "KeyDiffPress", {}, 0.5, 80),
    ("ChunkKVPress", {**KEYDIFF, "chunk_length": 80}, "KeyDiffPress", {}, 0.5, 79),
    ("BlockPress", {**KEYDIFF, "block_size": 40}, "KeyDiffPress", {}, 0.5, 80),
]


def kept(lm, press, n):
    """The keys that kvpress leaves of a prompt of ``n`` tokens, by layer, as a set a head."""
    layers = kvpress_cache(lm, [3 + place % 290 for place in range(n)], press, 0)[0].layers
    return [{key.numpy().tobytes() for key in head} for layer in layers for head in layer.keys[0]]


@pytest.mark.parametrize(("name", "kwargs", "other", "others", "ratio", "longest"), FALLS_BACK)
def test_a_press_that_does_another_s_work_is_known(name, kwargs, other, others, ratio, longest):
    """By what it keeps: on too short prompts the same as the other press."""
    lm = SimpleNamespace(model=tiny_llama(), attn="sdpa")
    next_one = longest + (
        4 if name == "PyramidKVPress" else 1
    )  # which rounds as SnapKV only where it divides
    for n in sorted({40, 52, longest, next_one, longest + 24, 160}):
        press, plain = (
            PressSpec(one, ratio, kwargs=fields).for_prompt(n)
            for one, fields in ((name, kwargs), (other, others))
        )
        same = kept(lm, press, n) == kept(lm, plain, n)
        if name == "LagKVPress":  # it may keep no more than sinks and tail on longer ones
            assert same == (n <= longest)
        else:
            assert falls_back(press, n) == same, n
        assert falls_back(press, n) >= (n <= longest)
    assert not falls_back(press, 160) and not falls_back(plain, 160)


@pytest.mark.parametrize(
    ("name", "kwargs", "ratio", "n", "expected"),
    [
        ("LagKVPress", {}, 0.875, 1000, True),  # 125 kept: sinks and tail alone have 4 + 128 + 100
        ("LagKVPress", {}, 0.5, 1000, False),
        ("LagKVPress", {}, 0.0, 50, False),
        ("EntropyGatedChunkKVPress", {**KEYDIFF, "chunk_length": 20}, 0.5, 20, True),
        ("EntropyGatedChunkKVPress", {**KEYDIFF, "chunk_length": 20}, 0.5, 21, False),
        ("ChunkPress", {"press": {"name": "LagKVPress"}, "chunk_length": 128}, 0.5, 2000, True),
        ("BlockPress", {"press": {"name": "LagKVPress"}, "block_size": 64}, 0.5, 300, True),
        ("with_sink", {"press": {"name": "PyramidKVPress"}}, 0.875, 300, True),
        ("expected_attention", {}, 0.875, 24, True),  # three kept, all of them sinks
        ("expected_attention", {}, 0.875, 320, False),
        ("streaming_llm", {"n_sink": 40}, 0.875, 320, True),
        ("CompactorPress", {}, 0.875, 90, True),
        ("with_sink", {"press": {"name": "LagKVPress"}}, 0.5, 200, True),
        ("with_sink", {"press": {"name": "LagKVPress"}}, 0.5, 2000, False),
        ("snapkv", {}, 0.875, 320, False),
        ("knorm", {}, 0.875, 20, False),
    ],
)
def test_what_a_press_always_keeps_and_what_it_wraps_count(name, kwargs, ratio, n, expected):
    assert falls_back(PressSpec(name, ratio, kwargs=kwargs).for_prompt(n), n) == expected


def test_all_supported_presses_can_be_asked():
    for entry in ENTRIES:
        for kwargs in ({}, {"press": {"name": "knorm"}}):
            try:
                press = PressSpec(entry.short or entry.class_name, 0.5, kwargs=kwargs).for_prompt(4000)
            except InputError:  # unsupported, or of another form
                continue
            assert not falls_back(press, 4000), entry
