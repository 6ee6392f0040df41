import inspect

import kvpress

from kvhelpers.presses.registry import BY_NAME, EAGER, ENTRIES, NONE, POSTHOC, PRESSES

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
