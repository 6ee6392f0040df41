import importlib
import inspect

import kvpress
import pytest
from reference import generate_all, random_prompts, with_attention

from kvhelpers.errors import InputError
from kvhelpers.presses.registry import BY_NAME, EAGER, ENTRIES, NONE, POSTHOC, PRESSES
from kvhelpers.presses.spec import PressSpec

ABSTRACT = {"BasePress", "ScorerPress"}


def installed():
    """Names of the press classes that the installed kvpress exports."""
    classes = {name: value for name, value in vars(kvpress).items() if inspect.isclass(value)}
    return {name for name, value in classes.items() if issubclass(value, kvpress.BasePress)} - ABSTRACT


def test_every_press_of_the_installed_kvpress_has_one_entry():
    listed = [entry.class_name for entry in ENTRIES if not entry.is_own]
    assert set(listed) == installed() and len(listed) == len(set(listed)) > 40


def test_names_lead_to_one_entry_each():
    shorts = [entry.short for entry in ENTRIES if entry.short]
    assert len(shorts) == len(set(shorts)) and NONE not in BY_NAME
    assert len(BY_NAME) == len(shorts) + len(installed())
    for short, class_name in PRESSES.items():
        assert BY_NAME[short] is BY_NAME[class_name]


def test_what_a_press_needs_is_known_of_supported_ones_only():
    supported = {entry.class_name for entry in ENTRIES if entry.unsupported is None}
    assert supported >= EAGER | POSTHOC and not EAGER & POSTHOC


SUPPORTED = [entry for entry in ENTRIES if entry.unsupported is None]
NO_RATIO = {"PerLayerCompressionPress", "SimLayerKVPress", "ThinKPress"}  # refused when they are built
NEEDED = {
    "press": {"name": "knorm"},
    "base_press": {"name": "knorm"},
    "low_entropy_chunk_length": 1,
    "decoding_press": {"name": "DecodingPress", "base_press": {"name": "knorm"}, "target_size": 20},
}
RANGES = [(entry, field) for entry in SUPPORTED for field in entry.fields]


def fields_of(entry):
    press_class = getattr(importlib.import_module(entry.module), entry.class_name)
    return inspect.signature(press_class).parameters


def spec_of(entry, **fields):
    needed = {name: NEEDED[name] for name in fields_of(entry) if name in NEEDED}
    ratio = 0.0 if "base_press" in needed else 0.5
    return PressSpec(entry.short or entry.class_name, ratio, kwargs=needed | fields)


def test_each_number_of_each_press_has_a_range_that_its_default_is_in():
    for entry in SUPPORTED:
        defaults = {name: parameter.default for name, parameter in fields_of(entry).items()}
        assert set(entry.fields) <= set(defaults)
        for name, default in defaults.items():
            if type(default) in (int, float) and name != "compression_ratio":
                assert entry.class_name in NO_RATIO or entry.fields[name].allows(default), (entry, name)


@pytest.mark.parametrize(("entry", "field"), RANGES, ids=lambda value: getattr(value, "class_name", value))
def test_a_field_may_have_its_least_value_and_none_below(entry, field, tiny):
    """The least value runs on a model; one less is refused before kvpress is needed."""
    least = getattr(entry.fields[field], "least", 0)
    for bad in (least - 1, "x", [], True):
        with pytest.raises(InputError, match=f"{field} .* is not allowed; it is "):
            spec_of(entry, **{field: bad}).check()
    if field in ("leverage_type", "merge_fraction"):  # words; and a share that kvpress wants above 0
        return
    spec = spec_of(entry, **{field: least})
    spec.check_build()
    for run in generate_all(with_attention(tiny, spec), random_prompts(2), spec, 3):
        assert run.error is None


@pytest.mark.parametrize(
    "entry", [entry for entry in SUPPORTED if entry.without_weights], ids=lambda e: e.class_name
)
def test_wrappers_that_have_no_weights_do_fail_with_a_press_that_reads_them(entry, tiny, monkeypatch):
    spec = spec_of(entry, press={"name": "observed_attention"})
    with pytest.raises(InputError, match="press 'observed_attention' does not fit"):
        spec.check()
    monkeypatch.setattr("kvhelpers.presses.spec._check_names", lambda *_: None)
    runs = generate_all(with_attention(tiny, spec), random_prompts(2), spec, 3)
    assert all("AssertionError" in run.error for run in runs)
