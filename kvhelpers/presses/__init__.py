"""Presses by name: what each needs, which are refused, and the press that a condition asks for.

It knows kvpress and this project's own press. It does not know a model, a prompt's text or what generation
does with a press. Names are checked without loading torch; kvpress is loaded when a press is built.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "kinds": ["is_posthoc", "observation_window", "phases"],
        "registry": ["BY_NAME", "DECODING", "ENTRIES", "NONE", "PRESSES", "PressEntry"],
        "sink": ["SinkPress"],
        "spec": ["PressSpec"],
    },
)
