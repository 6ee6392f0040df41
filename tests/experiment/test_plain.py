"""What a file or a parameter may be made of, and how YAML is read."""

import datetime

import pytest
import yaml

from kvhelpers.errors import InputError
from kvhelpers.experiment.plain import DEEPEST, MOST, check_plain, read_yaml


def nested(levels):
    value = 1
    for _ in range(levels):
        value = [value]
    return value


def cycle():
    value = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (float("nan"), "x nan is not allowed: it is no finite number"),
        ({"a": [1, {"b c": float("inf")}]}, "x.a[1]['b c'] inf is not allowed: it is no finite number"),
        (2**63, "x a number is not allowed: it does not fit into 64 bits"),
        (10**5000, "x a number is not allowed"),
        ("\ud800", "x '\\ud800' is not allowed: it has half of a Unicode character"),
        ({"\ud800": 1}, "x has the key '\\ud800', which is not allowed: keys are text"),
        ({1: 2}, "x has the key 1, which is not allowed: keys are text"),
        (datetime.date(2024, 1, 1), "x datetime.date(2024, 1, 1) is not allowed: it is neither null"),
        ({1}, "x {1} is not allowed: it is neither"),
        (b"a", "x b'a' is not allowed: it is neither"),
        ((1,), "x (1,) is not allowed: it is neither"),
        (nested(DEEPEST + 1), f"x is not allowed: it is nested deeper than {DEEPEST} levels"),
        (nested(100_000), "x is not allowed: it is nested deeper"),
        (cycle(), "x is not allowed: it is nested deeper"),
        ([0] * MOST, f"x is not allowed: it has more than {MOST} values"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_plain_does_not_pass(value, sentence):
    with pytest.raises(InputError) as caught:
        check_plain(value, "x")
    assert str(caught.value).startswith(sentence) and "\n" not in str(caught.value)


def test_what_is_plain_passes():
    check_plain({"a": [None, True, -1, 0.5, "ä", {}], "b": nested(DEEPEST - 1)}, "x")
    check_plain([0] * (MOST - 1), "x")


TEXTS = ("1:30", "190:20:30.15", "yes", "On", "off", "N", "2024-01-01", "010", "=", "0b1")


@pytest.mark.parametrize("text", TEXTS)
def test_yaml_1_1_does_not_make_something_else_of_text(text):
    assert read_yaml(f"a: {text}", "x") == {"a": text}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("-3", -3), ("1_000", 1000), ("0x10", 16), ("0.5", 0.5), ("1.5e-3", 0.0015), ("true", True),
        ("False", False), ("null", None), ("~", None), ("", None), ("'1:30'", "1:30"), ("a", "a"),
        ("{<<: {a: 1}, a: 2}", {"a": 2}),
    ],
)  # fmt: skip
def test_what_is_no_text_stays_what_it_is(text, value):
    read = read_yaml(text, "x")
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: 1\nb: 2\na: 3", "x is no YAML: line 3 gives the key 'a' a second time"),
        ("{p: {a: 1, 'a': 1}}", "x is no YAML: line 1 gives the key 'a' a second time"),
        ("!!timestamp 2024-01-01", "x datetime.date(2024, 1, 1) is not allowed"),
        ("!!timestamp 2024-99-99", "x is no YAML"),
        ("!!set {a}", "x {'a'} is not allowed: it is neither"),
        ("!!binary YQ==", "x b'a' is not allowed: it is neither"),
        ("!!int x", "x is no YAML"),
        ("!!int ''", "x is no YAML"),
        ("!!bool x", "x is no YAML"),
        ("!!python/object/apply:os.getcwd []", "x is no YAML: could not determine a constructor"),
        ("a: .nan", "x: a nan is not allowed: it is no finite number"),
        ('"\\ud800"', "x '\\ud800' is not allowed: it has half of a Unicode character"),
        ("1: 2", "x has the key 1, which is not allowed: keys are text"),
        ("[" * 5000, "x is no YAML: it is nested too deeply"),
        ("[" * 30 + "]" * 30, "x is not allowed: it is nested deeper"),
        ("&a [*a]", "x is not allowed: it is nested deeper"),
        ("\udcff", "x is no YAML: unacceptable character"),
        ("9" * 5000, "x is no YAML"),
    ],
)
def test_bad_yaml_gets_one_sentence(text, sentence):
    with pytest.raises(InputError) as caught:
        read_yaml(text, "x")
    assert str(caught.value).startswith(sentence) and "\n" not in str(caught.value)


def test_a_few_lines_do_not_stand_for_a_million_values():
    lines = ["a0: &a0 [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 7)]
    with pytest.raises(InputError, match=f"more than {MOST} values"):
        read_yaml("\n".join(lines), "x")


def test_merged_keys_are_not_taken_for_keys_given_twice():
    text = "a: {z: &z {x: 1}, inner: &b {<<: *z, x: 2}}\nc: {<<: *b, x: 3}"
    assert read_yaml(text, "x") == yaml.safe_load(text)
