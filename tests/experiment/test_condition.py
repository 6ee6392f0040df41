import datetime
import json
import subprocess
import sys

import pytest

from kvhelpers.errors import InputError
from kvhelpers.experiment.condition import LONGEST_NAME, LONGEST_STEM, make_condition
from kvhelpers.experiment.identity import check_here, identity, identity_hash, shared_identity
from kvhelpers.tasks.prompts import STOP_STRINGS

BAD = [
    ({"press": "snapkw"}, "press 'snapkw' is unknown; did you mean 'snapkv'?"),
    ({"press": "DecodingPress"}, "press 'DecodingPress' cannot be built with press_kwargs {}"),
    ({"press": "ThinKPress", "ratio": 0.5}, "press 'ThinKPress' takes no compression ratio"),
    ({"ratio": 1.0}, "ratio 1.0 is outside [0, 1)"),
    ({"ratio": 1}, "ratio 1 is outside [0, 1)"),
    ({"ratio": -0.1}, "ratio -0.1 is outside [0, 1)"),
    ({"ratio": float("nan")}, "ratio nan is outside [0, 1)"),
    (
        {"experiment": 1},
        "experiment 1 is not allowed: it came as a number, and it is text; with papermill, whose -p reads "
        "001 as 1, give it by -r experiment TEXT, and in YAML, as in --set, put it in quotes",
    ),
    ({"model": 7}, "model 7 is not allowed: it came as a number"),
    ({"task": 1.5}, "task 1.5 is not allowed: it came as a number"),
    ({"press": True}, "press True is not allowed: it came as a truth value"),
    ({"data_file": 3}, "data_file 3 is not allowed: it came as a number"),
    ({"ratio": "abc"}, "ratio 'abc' is not allowed: Input should be a valid number"),
    ({"press": "none", "ratio": 0.5}, "ratio 0.5 makes no sense with press 'none'"),
    ({"press": "none", "budget": 5}, "budget 5 makes no sense with press 'none'"),
    (
        {"press": "none", "press_kwargs": {"n_sink": 4}},
        "press_kwargs {'n_sink': 4} make no sense with press 'none'",
    ),
    ({"ratio": 0.5, "budget": 10}, "ratio 0.5 and budget 10 exclude each other"),
    ({"budget": 0}, "budget 0 is not allowed"),
    ({"budget": 2.5}, "budget 2.5 is not allowed"),
    (
        {"press_kwargs": {"sinks": 4}},
        "press_kwargs of press 'streaming_llm': key 'sinks' is unknown; did you mean 'n_sink'?",
    ),
    ({"press_kwargs": {"n_sink": "4"}}, "press_kwargs of press 'streaming_llm': n_sink '4' is not allowed"),
    ({"press_kwargs": {"n_sink": 2.5}}, "press_kwargs of press 'streaming_llm': n_sink 2.5 is not allowed"),
    (
        {"press_kwargs": {"n_sink": -3}},
        "press_kwargs of press 'streaming_llm': n_sink -3 is not allowed; it is a whole number from 0 on",
    ),
    (
        {"press": "snapkv", "press_kwargs": {"kernel_size": 0}},
        "press_kwargs of press 'snapkv': kernel_size 0 is not allowed; it is an odd whole number from 1 on",
    ),
    (
        {"press": "snapkv", "press_kwargs": {"window_size": 0}},
        "press_kwargs of press 'snapkv': window_size 0",
    ),
    (
        {"press": "random", "press_kwargs": {"seed": "x"}},
        "press_kwargs of press 'random': seed 'x' is not allowed; it is a whole number from 0 on or null",
    ),
    (
        {"press": "expected_attention", "press_kwargs": {"epsilon": float("nan")}},
        "press_kwargs.epsilon nan is not allowed: it is no finite number",
    ),
    (
        {"press": "expected_attention", "press_kwargs": '{"epsilon": NaN}'},
        "press_kwargs.epsilon nan is not allowed: it is no finite number",
    ),
    (
        {"press": "with_sink", "press_kwargs": {"press": {"name": "knorm", "x": [1, [float("-inf")]]}}},
        "press_kwargs.press.x[1][0] -inf is not allowed: it is no finite number",
    ),
    ({"press_kwargs": '{"n_sink": 1e999}'}, "press_kwargs.n_sink inf is not allowed"),
    ({"press_kwargs": '{"n_sink": 1, "n_sink": 2}'}, 'press_kwargs \'{"n_sink": 1, "n_sink": 2}\' is not'),
    ({"press_kwargs": "[" * 100_000}, "press_kwargs '["),
    (
        {"press_kwargs": {"n_sink": datetime.date(2024, 1, 1)}},
        "press_kwargs.n_sink datetime.date(2024, 1, 1)",
    ),
    ({"press_kwargs": {"n_sink": {1}}}, "press_kwargs.n_sink {1} is not allowed: it is neither"),
    ({"press_kwargs": {"n_sink": b"1"}}, "press_kwargs.n_sink b'1' is not allowed: it is neither"),
    ({"seed": 2**64}, "seed a number is not allowed: it does not fit into 64 bits"),
    ({"model": "\ud800/x"}, "model '\\ud800/x' is not allowed: it has half of a Unicode character"),
    ({"task": "gsm8k", "data_file": "\udcff"}, "data_file '\\udcff' is not allowed: it has half"),
    ({"experiment": "\ud800"}, "experiment '\\ud800' is not allowed"),
    ({"experiment": "a" * 300}, "experiment 'aaaa"),
    ({"experiment": "a" * 5000}, "experiment 'aaaa"),
    ({"model": ""}, "model '' is not allowed"),
    ({"model": "a" * 5000}, "model 'aaaa"),
    ({"model": f"{'a' * 300}/x"}, "model 'aaaa"),
    ({"task": "gsm8k", "data_file": ""}, "data_file '' is not allowed"),
    ({"task": "gsm8k", "data_file": "a" * 5000}, "data_file 'aaaa"),
    ({"press": "ComposedPress"}, "press 'ComposedPress' is not supported: it takes a list of presses"),
    ({"press": "observed_attention", "attn": "sdpa"}, "attn 'sdpa' does not fit 'observed_attention'"),
    ({"press_kwargs": "{"}, "press_kwargs '{' is not allowed"),
    ({"shuffle": False}, "shuffle False needs a data_file"),
    ({"task": "gsm8k", "examples_file": "a.jsonl"}, "examples_file 'a.jsonl' needs a data_file"),
    (
        {"task": "gsm8k", "data_file": "a", "examples_file": "b", "examples_seed": 3},
        "examples_seed 3 is not allowed with examples_file",
    ),
    ({"prompt_template": "a.j2"}, "multiturn True does not fit prompt_template"),
    ({"prompt_template": "no-such.j2", "multiturn": False}, "prompt_template 'no-such.j2' cannot be read"),
    ({"stop_strings": [""]}, "stop_strings [''] is not allowed"),
    ({"stop_strings": "Question:"}, "stop_strings 'Question:' is not allowed"),
    ({"press_kwargs": [1]}, "press_kwargs [1] is not allowed"),
    ({"press": "AdaKVPress", "press_kwargs": {"press": {"name": [1]}}}, "press_kwargs press [1] is unknown"),
    (
        {"press": "AdaKVPress", "press_kwargs": {"press": {"name": "none"}}},
        "press_kwargs press 'none' is unknown",
    ),
    ({"model": "~nobody-here/m"}, "model '~nobody-here/m' is no path"),
    ({"task": "gsm8k", "data_file": "~nobody-here/x"}, "data_file '~nobody-here/x' is no path"),
    ({"task": "gsm8k", "data_file": "a\0b"}, "data_file 'a\\x00b' is no path: it has a null character"),
    ({"press": "AdaKVPress", "press_kwargs": {}}, "press 'AdaKVPress' cannot be built"),
    (
        {"press": "AdaKVPress", "press_kwargs": {"press": {"name": "knrm"}}},
        "press_kwargs press 'knrm' is unknown",
    ),
    ({"n_prompt": 4}, "parameter 'n_prompt' is unknown; did you mean 'n_prompts'?"),
    ({"n_prompts": "4"}, "n_prompts '4' is not allowed: Input should be a valid integer"),
    ({"n_prompts": True}, "n_prompts True is not allowed"),
    ({"n_prompts": 0}, "n_prompts 0 is not allowed"),
    ({"n_fewshot": -1}, "n_fewshot -1 is not allowed"),
    ({"max_new_tokens": 0}, "max_new_tokens 0 is not allowed"),
    ({"multiturn": "true"}, "multiturn 'true' is not allowed: Input should be a valid boolean"),
    ({"experiment": "../x"}, "experiment '../x' is not allowed"),
    ({"experiment": ""}, "experiment '' is not allowed"),
    ({"experiment": "a\nb"}, "experiment 'a\\nb' is not allowed"),
    ({"experiment": "\x1b[31m"}, "experiment '\\x1b[31m' is not allowed"),
    ({"seed": -1}, "seed -1 is not allowed"),
    ({"canary_tokens": -1}, "canary_tokens -1 is not allowed"),
    ({"press": ""}, "press '' is unknown"),
    ({"press": ["knorm"]}, "press ['knorm'] is not allowed"),
    ({"model": None}, "model None is not allowed"),
    ({"timeout_s": float("inf")}, "timeout_s inf is not allowed"),
    ({"task": "gsm9k"}, "task 'gsm9k' is unknown; did you mean 'gsm8k'?"),
    ({"data_file": "x.jsonl"}, "data_file 'x.jsonl' is only for task 'gsm8k'"),
    ({"task": "gsm8k", "data_file": "/no/x.jsonl"}, "data_file '/no/x.jsonl' cannot be read"),
    ({"model": "nothing-here"}, "model 'nothing-here' is no existing folder"),
    ({"device": "gpu"}, "device 'gpu' is unknown"),
    ({"dtype": "float"}, "dtype 'float' is unknown"),
    ({"attn": "flash"}, "attn 'flash' is not allowed"),
    ({"repetition_penalty": 0}, "repetition_penalty 0 is not allowed"),
    ({"timeout_s": 0}, "timeout_s 0 is not allowed"),
    ({"batch_size": 0}, "batch_size 0 is not allowed: give a whole number of prompts from 1 on, or 'auto'"),
    ({"batch_size": "many"}, "batch_size 'many' is not allowed"),
    ({"batch_size": True}, "batch_size True is not allowed"),
]


@pytest.mark.parametrize(("values", "sentence"), BAD, ids=[str(values)[:80] for values, _ in BAD])
def test_bad_input_gets_one_sentence(values, sentence):
    with pytest.raises(InputError) as caught:
        check_here(make_condition(values))
    assert str(caught.value).startswith(sentence) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1200  # the longest names all presses


def test_the_table_is_long_enough():
    assert len({str(values) for values, _ in BAD}) >= 40


def test_ratio_defaults():
    assert make_condition({}).ratio == 0.875 and make_condition({}).press != "none"
    assert make_condition({"press": "none"}).ratio == 0
    assert make_condition({"budget": 12}).ratio is None
    assert make_condition({"ratio": 0}).ratio == 0


def test_press_kwargs_may_be_json_text():
    assert make_condition({"press": "snapkv", "press_kwargs": '{"window_size": 16}'}).press_kwargs == {
        "window_size": 16
    }


def test_hash_follows_what_determines_the_tokens():
    base = identity_hash(make_condition({}))
    for same in (
        {"batch_size": 3},
        {"experiment": "other"},
        {"device": "cpu"},
        {"dtype": "float32"},
        {"attn": "sdpa"},
    ):
        assert identity_hash(make_condition({"device": "cpu", **same})) == base
    for other in (
        {"seed": 1},
        {"ratio": 0.5},
        {"max_new_tokens": 9},
        {"dtype": "bfloat16"},
        {"multiturn": False},
    ):
        assert identity_hash(make_condition({"device": "cpu", **other})) != base


def test_file_names_tell_conditions_apart():
    assert make_condition({"ratio": 0.5}).stem() == "smollm2-135m_0.5_20p"
    assert make_condition({"budget": 64}).stem() == "smollm2-135m_b64_20p"
    stem = make_condition({"press": "snapkv", "press_kwargs": {"window_size": 16}}).stem()
    assert stem == "smollm2-135m_0.875_20p_window-size-16"
    assert make_condition({"model": "."}).stem() == "0.875_20p"  # a hidden file would be no result
    assert make_condition({"model": "Qwen/Qwen2.5-3B-Instruct"}).stem() == "Qwen2.5-3B-Instruct_0.875_20p"


def test_a_ratio_is_not_shown_as_another():
    near = make_condition({"ratio": 0.99999999})
    assert near.label() == "streaming_llm 0.99999999" and near.stem() == "smollm2-135m_0.99999999_20p"
    assert make_condition({"ratio": 1 / 3}).label() == "streaming_llm 0.3333333333333333"
    assert make_condition({"ratio": 0.0000001}).label() == "streaming_llm 1e-07"
    zero = make_condition({"press": "knorm", "ratio": -0.0})
    assert (zero.label(), zero.stem()) == ("knorm 0", "smollm2-135m_0_20p")
    assert identity_hash(zero) == identity_hash(make_condition({"press": "knorm", "ratio": 0}))


def inner(depth, window):
    press = {"name": "snapkv", "window_size": window}
    for _ in range(depth):
        press = {"name": "with_sink", "press": press, "n_sink": 4}
    return make_condition({"press": "with_sink", "press_kwargs": {"press": press}})


def test_file_names_do_not_grow_beyond_what_file_systems_take():
    """Up to the limit a name is spelt out as ever; beyond, a hash tells conditions apart."""
    spelt, long, other = inner(4, 16).stem(), inner(5, 16).stem(), inner(5, 17).stem()
    assert spelt == "smollm2-135m_0.875_20p_press" + "-n-sink-4-name-with-sink-press" * 4 + (
        "-name-snapkv-window-size-16"
    )
    assert len(spelt) <= LONGEST_STEM == len(long) == len(other)
    assert long != other and long == inner(5, 16).stem()
    assert inner(5, 16).label() != inner(5, 17).label()


def test_an_experiment_s_name_has_a_limit():
    assert make_condition({"experiment": "a" * LONGEST_NAME}).experiment == "a" * LONGEST_NAME
    with pytest.raises(InputError, match="has at most 160 characters"):
        make_condition({"experiment": "a" * (LONGEST_NAME + 1)})


def test_what_is_accepted_can_be_written():
    condition = make_condition({"press": "snapkv", "press_kwargs": {"window_size": 16}, "ratio": 0.5})
    assert json.loads(json.dumps(condition.model_dump(), allow_nan=False)) == condition.model_dump()


def test_eager_attention_is_arranged_for_the_presses_that_read_weights():
    assert make_condition({"press": "observed_attention"}).prefill_attention == "eager"
    wrapped = {"press": "with_sink", "press_kwargs": {"press": {"name": "observed_attention"}}}
    assert make_condition(wrapped).prefill_attention == "eager"
    assert make_condition({"press": "snapkv"}).prefill_attention == "sdpa"
    assert make_condition({"press": "snapkv"}).asked_attention == "auto"


HERE = """
import sys
from kvhelpers.errors import InputError
from kvhelpers.experiment.condition import make_condition
make_condition({"press": "AdaKVPress", "press_kwargs": {"press": {"name": "snapkv"}}, "ratio": 0.5})
for values in ({"press": "snapkw"}, {"task": "gsm9k"}, {"model": "nothing"}, {"ratio": 2}, {"n_prompt": 1}):
    try:
        make_condition(values)
    except InputError:
        continue
    raise AssertionError(values)
loaded = {"torch", "transformers", "kvpress", "distributed"} & set(sys.modules)
assert not loaded, loaded
"""


def test_names_and_numbers_are_checked_without_torch():
    run = subprocess.run([sys.executable, "-c", HERE], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_settings_that_older_results_do_not_name_leave_their_identity(tmp_path):
    usual = make_condition({"multiturn": False})
    first = make_condition({"multiturn": False, "question_position": "first", "examples_seed": 7})
    assert not {"question_position", "examples_seed"} & set(identity(usual))
    assert identity(first) == identity(usual) | {"question_position": "first", "examples_seed": 7}
    assert first.label() == "streaming_llm 0.875 (question first, examples 7)"
    assert first.uncompressed().label() == "none (question first, examples 7)"
    assert first.stem() == f"{usual.stem()}_question-first-examples-7"
    assert shared_identity(identity(first)) == shared_identity(identity(usual))


def test_where_the_question_stands_is_checked():
    with pytest.raises(InputError, match="question_position 'middle' is not allowed: .*'last' or 'first'"):
        make_condition({"question_position": "middle"})
    with pytest.raises(InputError, match="examples_seed -1 is not allowed"):
        make_condition({"examples_seed": -1})
    with pytest.raises(InputError, match="question_position 'first' needs multiturn false"):
        make_condition({"question_position": "first"})


def test_what_is_compressed_leaves_the_identity_of_older_conditions():
    usual = make_condition({"multiturn": False})
    context = make_condition({"multiturn": False, "compress": "context"})
    assert "compress" not in identity(usual)
    assert identity(context) == identity(usual) | {"compress": "context"}
    assert context.label() == "streaming_llm 0.875 (compress context)"
    assert context.uncompressed().label() == "none (compress context)"
    assert shared_identity(identity(context)) == shared_identity(identity(usual))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"compress": "question"}, "compress 'question' is not allowed: .*'prompt' or 'context'"),
        ({"multiturn": True}, "multiturn True does not fit compress 'context', .*: use False"),
        ({"question_position": "first"}, "question_position 'first' does not fit compress 'context'.*'last'"),
        ({"n_fewshot": 0}, "n_fewshot 0 does not fit compress 'context': nothing stands before the question"),
    ],
)
def test_a_context_that_cannot_be_is_refused(values, sentence):
    with pytest.raises(InputError, match=sentence):
        make_condition({"multiturn": False, "compress": "context"} | values)


def test_prompts_of_one_s_own_are_told_apart_by_what_their_files_hold(tmp_path):
    for name in ("a.j2", "b.j2"):
        (tmp_path / name).write_text("{{ question }}")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "1 and 1?", "answer": "#### 2"}\n')
    usual = {"task": "gsm8k", "data_file": str(rows), "multiturn": False}
    own = {"prompt_template": str(tmp_path / "a.j2"), "examples_file": str(rows), "stop_strings": "[]"}
    plain, first = identity(make_condition(usual)), identity(make_condition(usual | own))
    assert first.keys() - plain.keys() == {"template_sha256", "examples", "stop_strings"}
    elsewhere = own | {"prompt_template": str(tmp_path / "b.j2")}
    assert identity(make_condition(usual | elsewhere)) == first
    (tmp_path / "b.j2").write_text("Q: {{ question }}")
    assert identity(make_condition(usual | elsewhere)) != first
    assert make_condition(usual | own).ends == () and make_condition(usual).ends == STOP_STRINGS


QUANTIZED = {
    "press": "none",
    "cache_type_k": "q4_0",
    "cache_type_v": "int4",
    "cache_kwargs": '{"residual": 64, "protect_layers": [0, -1], "rotate": true}',
}


def test_formats_of_the_cache_tell_conditions_apart():
    one, bare = make_condition(QUANTIZED), make_condition({"press": "none"})
    other = make_condition(QUANTIZED | {"cache_kwargs": {"residual": 64, "protect_layers": [0, 1]}})
    assert one.label() == "none (K q4_0, V int4, protect_layers=[0, -1], residual=64, rotate=True)"
    assert one.stem() == "smollm2-135m_0_20p_K-q4-0-V-int4-protect-layers-0--1-residual-64-rotate-True"
    assert (
        len({c.stem() for c in (one, other, bare)})
        == len({identity_hash(c) for c in (one, other, bare)})
        == 3
    )
    assert shared_identity(identity(one)) == shared_identity(identity(bare))
    assert bare.is_baseline and not one.is_baseline and one.uncompressed() == bare
    assert one.cache_formats.protect_layers == (0, -1) and not bare.cache_formats


def test_a_cache_in_full_leaves_the_identity_of_older_results():
    usual = make_condition({"cache_type_k": "none", "cache_type_v": "none", "cache_kwargs": {}})
    assert identity(usual) == identity(make_condition({}))
    assert not {"cache_type_k", "cache_type_v", "cache_kwargs"} & set(identity(usual))


def test_a_bad_format_is_refused_by_name():
    with pytest.raises(InputError, match="cache_type_k 'q8' is unknown; did you mean 'q8_0'?"):
        make_condition({"cache_type_k": "q8"})
    with pytest.raises(InputError, match="cache_kwargs.protect_layers.* nan is not allowed"):
        make_condition({"cache_type_k": "q4_0", "cache_kwargs": {"protect_layers": [float("nan")]}})
