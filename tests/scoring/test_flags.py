import re

from kvhelpers.paths import REPOSITORY
from kvhelpers.presses.cache_formats import CacheFormats
from kvhelpers.scoring.flags import FLAGS, INVALIDATING, baseline_is_weak, format_flags


def test_weak_baseline_is_where_mcnemar_cannot_reach_significance():
    assert [baseline_is_weak(k) for k in (0, 5, 6, 20)] == [True, True, False, False]


def test_every_flag_is_in_the_table_of_the_readme_and_no_other():
    rows = re.findall(r"^\| (`.*?`) \|", (REPOSITORY / "README.md").read_text(), re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert listed >= set(FLAGS) >= set(INVALIDATING)


def test_a_format_that_is_the_model_s_own_type_is_flagged():
    half = CacheFormats("f16", "none")
    assert format_flags(half, "float16", 100) == ["format_changes_nothing"]
    assert format_flags(half, "bfloat16", 100) == format_flags(half, "float32", 100) == []
    assert format_flags(CacheFormats("bf16", "bf16"), "bfloat16", 100) == ["format_changes_nothing"]
    assert format_flags(CacheFormats("f16", "q8_0"), "float16", 100) == []
    assert format_flags(CacheFormats(), "float16", 100) == []


def test_a_run_that_never_fills_the_residual_window_is_flagged():
    keys, values = CacheFormats("int4", "none", residual=64), CacheFormats("q8_0", "int2", residual=64)
    assert format_flags(keys, "float32", 63) == format_flags(values, "float32", 64) == ["residual_not_filled"]
    assert format_flags(keys, "float32", 64) == format_flags(values, "float32", 65) == []
    spared = CacheFormats("int4", "none", residual=64, protect_tokens=4)
    assert (
        format_flags(spared, "float32", 67) == ["residual_not_filled"] != format_flags(spared, "float32", 68)
    )
