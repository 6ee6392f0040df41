"""What a built press does: to the prompt's cache, while decoding, and when."""

from __future__ import annotations

import kvpress

from kvhelpers.presses.registry import POSTHOC
from kvhelpers.presses.restore_rows import RestoreRowsPress
from kvhelpers.presses.sink import SinkPress


def phases(press: kvpress.BasePress | None) -> tuple[kvpress.BasePress | None, kvpress.DecodingPress | None]:
    """What a press does to the prompt's cache, and what it does while decoding."""
    if isinstance(press, kvpress.DecodingPress):
        return None, press
    if isinstance(press, kvpress.PrefillDecodingPress):
        return press.prefilling_press, press.decoding_press
    return press, None


def is_posthoc(press: kvpress.BasePress | None) -> bool:
    """Whether a press needs no more of the prompt's forward pass than hidden states, keys and values, once it
    is over.
    """
    if isinstance(press, (SinkPress, RestoreRowsPress)):
        return is_posthoc(press.press)
    return press is None or type(press).__name__ in POSTHOC


def observation_window(press: kvpress.BasePress | None) -> int | None:
    """Last prompt tokens that a press always keeps because it observes from them (SnapKV), or None."""
    while press is not None:
        if hasattr(press, "window_size"):
            return int(press.window_size)
        press = getattr(press, "press", None)
    return None
