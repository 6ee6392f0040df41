"""Cache formats by name: what is refused, in a sentence, without torch."""

import pytest

from kvhelpers.errors import InputError
from kvhelpers.presses.cache_formats import CacheFormats

REFUSED = [
    (("q8", "none", {}), "cache_type_k 'q8' is unknown; did you mean 'q8_0'?"),
    (("none", [4], {}), r"cache_type_v \[4\] is unknown"),
    (("q4_0", "none", {"sinks": 4}), "cache_kwargs: key 'sinks' is unknown"),
    (("none", "none", {"rotate": True}), "cache_kwargs rotate True makes no sense without a cache_type"),
    (("q8_0", "none", {"group": 32}), "cache_kwargs group 32 makes no sense with 'q8_0' and 'none'"),
    (("int4", "none", {"group": 0}), "cache_kwargs group 0 is not allowed; it is a whole number from 1 on"),
    (("int4", "none", {"residual": 100}), "residual 100 is not allowed; it is a multiple of group 32"),
    (("q8_0", "none", {"rotate": 1}), "cache_kwargs rotate 1 is not allowed; it is true or false"),
    (("q8_0", "none", {"protect_tokens": -1}), "protect_tokens -1 is not allowed"),
    (("q8_0", "none", {"protect_layers": 0}), "protect_layers 0 is not allowed; it is a list of layers"),
    (("q8_0", "none", {"protect_layers": [True]}), r"protect_layers \[True\] is not allowed"),
]


@pytest.mark.parametrize(("parts", "message"), REFUSED, ids=lambda value: str(value)[:30])
def test_bad_formats_are_refused_in_a_sentence(parts, message):
    with pytest.raises(InputError, match=message):
        CacheFormats.of(*parts)


def test_bits_count_what_a_block_or_group_has_in_common():
    formats = CacheFormats.of("int2", "int4", {"group": 64, "residual": 64})
    assert formats.bits("int2") == 2.5 and formats.bits("int4") == 4.5
    # 32 values and a scale of two bytes; two bytes more for the smallest value
    assert formats.bits("q8_0") == (32 + 2) * 8 / 32 and formats.bits("q4_0") == (16 + 2) * 8 / 32
    assert formats.bits("q4_1") == (16 + 4) * 8 / 32 and formats.bits("q5_1") == (20 + 4) * 8 / 32
    assert formats.bits("q5_0") == (20 + 2) * 8 / 32


def test_no_format_is_none():
    assert not CacheFormats.of("none", "none", {}) and CacheFormats.of("none", "f16", {})
    assert not CacheFormats.of("q8_0", "q8_0", {}).in_order
    assert CacheFormats.of("q8_0", "none", {"protect_tokens": 4}).in_order
