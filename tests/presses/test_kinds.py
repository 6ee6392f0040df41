import kvpress
import pytest

from kvhelpers.presses.kinds import is_posthoc, observation_window, phases
from kvhelpers.presses.registry import POSTHOC, PRESSES
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
