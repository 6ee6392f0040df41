import pytest
from reference import alone, generate_all, random_prompts

from kvhelpers.errors import InputError
from kvhelpers.presses.spec import PressSpec

BASES = {
    "knorm": {},
    "streaming_llm": {"n_sink": 2},
    "tova": {},
    "expected_attention": {"n_future_positions": 16},
}


def decoding(base, interval=7, target=20, **kwargs):
    fields = {
        "base_press": {"name": base, **BASES.get(base, {})},
        "compression_interval": interval,
        "target_size": target,
    }
    return fields | kwargs


@pytest.mark.parametrize("base", BASES)
def test_rows_that_compress_while_decoding_give_the_tokens_of_generate(tiny, base):
    spec, prompts = PressSpec("DecodingPress", 0.0, kwargs=decoding(base)), random_prompts(5)
    for result, prompt in zip(generate_all(tiny, prompts, spec, 40), prompts, strict=True):
        assert result.token_ids == alone(tiny, prompt, spec.for_prompt(len(prompt)), result.index, 40)
        assert [cut.step for cut in result.compressions] == list(range(7, len(result.token_ids), 7))
        assert result.compressions[0].before == len(prompt) + 7
        assert {cut.after for cut in result.compressions} == {20}


def test_a_prefill_press_and_a_decoding_press_together(tiny):
    kwargs = {
        "prefilling_press": {"name": "snapkv", "window_size": 4},
        "decoding_press": {"name": "DecodingPress", **decoding("knorm", 5, 18, hidden_states_buffer_size=0)},
    }
    spec, prompts = PressSpec("PrefillDecodingPress", 0.5, kwargs=kwargs), random_prompts(4)
    plain = generate_all(tiny, prompts, PressSpec("snapkv", 0.5, kwargs={"window_size": 4}), 30)
    for result, other, prompt in zip(generate_all(tiny, prompts, spec, 30), plain, prompts, strict=True):
        assert result.token_ids == alone(tiny, prompt, spec.for_prompt(len(prompt)), result.index, 30)
        assert result.cache == other.cache and result.compressions


def test_random_cuts_do_not_depend_on_the_batch(tiny):
    spec, prompts = PressSpec("DecodingPress", 0.0, kwargs=decoding("random")), random_prompts(5)
    one, five = ([r.token_ids for r in generate_all(tiny, prompts, spec, 30, size)] for size in (1, 5))
    assert one == five


def test_a_press_that_fails_while_decoding_fails_its_row_only(tiny):
    # its window is longer than the interval
    spec = PressSpec("DecodingPress", 0.0, kwargs=decoding("snapkv", 7))
    for result in generate_all(tiny, random_prompts(2), spec, 20):
        assert result.stop_reason == "error" and "AssertionError while decoding" in result.error
        assert len(result.token_ids) == 8


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (
            PressSpec("DecodingPress", 0.5, kwargs=decoding("knorm")),
            "ratio 0.5 makes no sense with press 'DecodingPress'",
        ),
        (
            PressSpec("DecodingPress", None, 9, kwargs=decoding("knorm")),
            "budget 9 makes no sense with press 'DecodingPress'",
        ),
        (PressSpec("DecodingPress", 0.0), "cannot be built"),
        (
            PressSpec("DecodingPress", 0.0, kwargs=decoding("observed_attention")),
            "not supported while decoding",
        ),
        (
            PressSpec("DecodingPress", 0.0, kwargs=decoding("knorm", 0)),
            "compression_interval 0 is not allowed; it is a whole number from 1 on",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(spec, sentence):
    with pytest.raises(InputError, match=sentence):
        spec.check_build()
