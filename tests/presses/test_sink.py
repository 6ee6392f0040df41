import pytest
from reference import alone, generate_all, kvpress_cache, random_prompts

from kvhelpers.errors import InputError
from kvhelpers.presses.kinds import is_posthoc
from kvhelpers.presses.spec import PressSpec


def with_sink(n_sink=4, **inner):
    return PressSpec(
        "with_sink", 0.8, kwargs={"press": {"name": "snapkv", "window_size": 4, **inner}, "n_sink": n_sink}
    )


def test_the_sink_is_kept_and_the_rest_is_chosen_as_without_it(tiny):
    (prompt,) = random_prompts(1)
    full, _ = kvpress_cache(tiny, prompt, None, 0)
    kept = {}
    for name, spec in (("with", with_sink(2)), ("without", with_sink(0))):
        cache, _ = kvpress_cache(tiny, prompt, spec.for_prompt(len(prompt)), 0)
        layer = cache.layers[1]
        kept[name] = [
            {
                i
                for i in range(len(prompt))
                if (layer.keys[0, head] == full.layers[1].keys[0, head, i]).all(-1).any()
            }
            for head in range(layer.keys.shape[1])
        ]
        plain, _ = kvpress_cache(
            tiny, prompt, PressSpec("snapkv", 0.8, kwargs={"window_size": 4}).for_prompt(len(prompt)), 0
        )
        assert layer.keys.shape == plain.layers[1].keys.shape
        if name == "without":
            assert (layer.keys == plain.layers[1].keys).all()
    for sunk, bare in zip(kept["with"], kept["without"], strict=True):
        assert {0, 1} <= sunk and sunk - {0, 1} <= bare


def test_batches_are_exact_and_the_sink_is_reported(tiny):
    spec, prompts = with_sink(), random_prompts(4)
    assert is_posthoc(spec.for_prompt(40))
    for result, prompt in zip(generate_all(tiny, prompts, spec, 24), prompts, strict=True):
        assert result.token_ids == alone(tiny, prompt, spec.for_prompt(len(prompt)), result.index, 24)
        assert result.cache.sink_kept == 1.0 and result.cache.window == 4


def test_it_needs_a_press_that_scores():
    with pytest.raises(InputError, match="'with_sink' cannot be built"):
        PressSpec("with_sink", 0.5).check_build()
    with pytest.raises(InputError, match="'with_sink' cannot be built"):
        PressSpec(
            "with_sink", 0.5, kwargs={"press": {"name": "AdaKVPress", "press": {"name": "snapkv"}}}
        ).check_build()
