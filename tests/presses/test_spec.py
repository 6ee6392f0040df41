import subprocess
import sys

import pytest

from kvhelpers.errors import InputError
from kvhelpers.presses.spec import PressSpec

NO_TORCH = """
import sys
from kvhelpers.errors import InputError
from kvhelpers.presses import PressSpec
PressSpec("snapkv", 0.5, kwargs={"window_size": 16}).check()
assert PressSpec("ChunkPress", 0.5, kwargs={"press": {"name": "observed_attention"}}).attention() == "eager"
for name in ("snapkw", "KVzipPress"):
    try:
        PressSpec(name, 0.5).check()
    except InputError as error:
        print(error)
loaded = {"torch", "kvpress", "transformers"} & set(sys.modules)
assert not loaded, loaded
"""


def test_names_are_checked_without_torch():
    run = subprocess.run([sys.executable, "-c", NO_TORCH], capture_output=True, text=True, check=True)
    unknown, unsupported = run.stdout.splitlines()
    assert unknown.startswith(
        "press 'snapkw' is unknown; did you mean 'snapkv'? (allowed: none, streaming_llm, "
    )
    assert "with_sink, " in unknown and "ThinKPress" in unknown and "SinkPress" not in unknown
    assert (
        unsupported
        == "press 'KVzipPress' is not supported: it replays the context in several passes of its own"
    )


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (PressSpec("knrm", 0.5), "press 'knrm' is unknown; did you mean 'knorm'?"),
        (PressSpec("BasePress", 0.5), "press 'BasePress' is unknown"),
        (PressSpec("SinkPress", 0.5), "press 'SinkPress' is unknown"),
        (
            PressSpec("ComposedPress", 0.5),
            "press 'ComposedPress' is not supported: it takes a list",
        ),
        (
            PressSpec("AdaKVPress", 0.5, kwargs={"press": {"name": "QFilterPress"}}),
            "press_kwargs press 'QFilterPress' is not supported: it needs filters from a model hub",
        ),
        (
            PressSpec("with_sink", 0.5, kwargs={"press": {"name": "AdaKVPress", "press": {"name": [1]}}}),
            "press_kwargs press [1] is unknown",
        ),
        (PressSpec("knorm", 0.5, 3), "ratio 0.5 and budget 3 exclude each other; give one of them"),
        (PressSpec("knorm", 1.0), "ratio 1.0 is outside [0, 1)"),
        (PressSpec("knorm", budget=0), "budget 0 is below 1; it is the number of tokens kept"),
        (PressSpec("none", 0.5), "ratio 0.5 makes no sense with press 'none'; leave it out"),
        (PressSpec("none", budget=0), "budget 0 makes no sense with press 'none'; leave it out"),
        (
            PressSpec("none", kwargs={"n_sink": 1}),
            "press_kwargs {'n_sink': 1} make no sense with press 'none'",
        ),
        (
            PressSpec("snapkv", 0.5, kwargs={"window_size": 4.0}),
            "press_kwargs of press 'snapkv': window_size 4.0 is not allowed; it is a whole number from 1 on",
        ),
        (
            PressSpec("snapkv", 0.5, kwargs={"kernel_size": 4}),
            "press_kwargs of press 'snapkv': kernel_size 4 is not allowed; it is an odd whole number",
        ),
        (
            PressSpec("AdaKVPress", 0.5, kwargs={"press": {"name": "snapkv", "window_size": -4}}),
            "press_kwargs of press 'snapkv': window_size -4 is not allowed; it is a whole number from 1 on",
        ),
        (
            PressSpec(
                "ChunkPress",
                0.5,
                kwargs={"press": {"name": "with_sink", "press": {"name": "observed_attention"}}},
            ),
            "press_kwargs press 'with_sink' does not fit press 'ChunkPress'",
        ),
        (
            PressSpec("DecodingPress", 0.5),
            "ratio 0.5 makes no sense with press 'DecodingPress', which has no prefilling press; use ratio 0",
        ),
        (
            PressSpec("PrefillDecodingPress", budget=4),
            "budget 4 makes no sense with press 'PrefillDecodingPress', which has no prefilling press",
        ),
    ],
)
def test_what_names_and_amounts_tell_is_refused_before_kvpress_is_needed(spec, sentence):
    for check in (spec.check, spec.check_build):
        with pytest.raises(InputError) as caught:
            check()
        assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (PressSpec("ThinKPress", 0.5), "press 'ThinKPress' takes no compression ratio of its own: "),
        (PressSpec("AdaKVPress", 0.5), "press 'AdaKVPress' cannot be built with press_kwargs {}: "),
        (
            PressSpec("snapkv", 0.5, kwargs={"window": 4}),
            "press_kwargs of press 'snapkv': key 'window' is unknown; did you mean 'window_size'? "
            "(allowed: kernel_size, window_size)",
        ),
        (
            PressSpec("snapkv", 0.5, kwargs={"compression_ratio": 0.5}),
            "press_kwargs of press 'snapkv': key 'compression_ratio' is unknown",
        ),
        (
            PressSpec("CURPress", 0.5, kwargs={"use_random_leverage": 1}),
            "press_kwargs of press 'CURPress': use_random_leverage 1 is no bool",
        ),
        (
            PressSpec("CompactorPress", 0.5, kwargs={"_leverage_press": 1}),
            "press_kwargs of press 'CompactorPress': key '_leverage_press' is unknown",
        ),
        (
            PressSpec("MergingPress", 0.5, kwargs={"press": {"name": "knorm"}, "merge_fraction": 0}),
            "press 'MergingPress' cannot be built with press_kwargs ",
        ),
        (
            PressSpec("PrefillDecodingPress", 0.0, kwargs={"decoding_press": 5}),
            "press_kwargs decoding_press 5 is not allowed; it is a press with the name 'DecodingPress'",
        ),
        (
            PressSpec("PrefillDecodingPress", 0.0, kwargs={"decoding_press": {"name": "knorm"}}),
            "press_kwargs decoding_press KnormPress(compression_ratio=0.0) is not allowed",
        ),
    ],
)
def test_what_takes_kvpress_to_tell_is_refused_when_a_press_is_built(spec, sentence):
    spec.check()
    for build in (spec.check_build, lambda: spec.for_prompt(100)):
        with pytest.raises(InputError) as caught:
            build()
        assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("name", "kwargs", "attention"),
    [
        ("none", {}, "sdpa"),
        ("snapkv", {}, "sdpa"),
        ("observed_attention", {}, "eager"),
        ("ObservedAttentionPress", {}, "eager"),
        ("ChunkPress", {"press": {"name": "observed_attention"}}, "eager"),
        ("with_sink", {"press": {"name": "ObservedAttentionPress"}, "n_sink": 2}, "eager"),
        ("ChunkPress", {"press": {"name": "AdaKVPress", "press": {"name": "observed_attention"}}}, "eager"),
        ("ChunkPress", {"press": {"name": "tova"}}, "sdpa"),
        ("PrefillDecodingPress", {"prefilling_press": {"name": "observed_attention"}}, "eager"),
        ("PrefillDecodingPress", {"decoding_press": {"name": "observed_attention"}}, "sdpa"),
        ("DecodingPress", {"base_press": {"name": "observed_attention"}}, "sdpa"),
    ],
)
def test_attention_follows_the_presses_that_act_on_the_prompt(name, kwargs, attention):
    assert PressSpec(name, 0.0, kwargs=kwargs).attention() == attention


def test_a_budget_above_the_prompt_is_refused():
    with pytest.raises(InputError, match="budget 11 is above the prompt's 10 tokens .*; choose at most 10"):
        PressSpec("knorm", budget=11).for_prompt(10)
    assert PressSpec("knorm", budget=10).for_prompt(10).compression_ratio == 0
    assert PressSpec("none").for_prompt(10) is None


def test_each_call_builds_a_press_of_its_own():
    spec = PressSpec("AdaKVPress", 0.5, kwargs={"press": {"name": "snapkv", "window_size": 8}})
    first, second = spec.for_prompt(10), spec.for_prompt(10)
    assert first is not second and first.press is not second.press
    assert first.press.window_size == 8 and first.compression_ratio == 0.5
