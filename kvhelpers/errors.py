"""The one exception that means: what the user asked for cannot be done, and here is why."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any


class InputError(ValueError):
    """Bad input, told in one sentence that names the parameter, its value and what is allowed."""

    def _render_traceback_(self) -> list[str]:
        """Jupyter shows this instead of a traceback, so the sentence stands alone under papermill too."""
        return [f"{type(self).__name__}: {self}"]


def shown(value: object) -> str:
    """A value in a message: as Python writes it, with the middle of a long one left out."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 160
    short.maxdict = short.maxlist = 12
    return short.repr(value)


def check_text(name: str, value: object) -> None:
    """Raise InputError for a number or a truth value where text belongs: what reads parameters may have made
    it of text, such as 1 of 001.
    """
    if isinstance(value, (int, float)):
        kind = "truth value" if isinstance(value, bool) else "number"
        raise InputError(
            f"{name} {shown(value)} is not allowed: it came as a {kind}, and it is text; with papermill, "
            f"whose -p reads 001 as 1, give it by -r {name} TEXT, and in YAML, as in --set, put it in quotes"
        )


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The mapping of a JSON object's pairs, as ``object_pairs_hook``. Raises ValueError for a key given
    twice.
    """
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        raise ValueError("a key is given twice")
    return mapping


def unknown_name(parameter: str, value: object, allowed: Iterable[str]) -> InputError:
    """Build the error for a name that is not in ``allowed``, with the nearest valid name."""
    allowed = list(allowed)
    near = difflib.get_close_matches(str(value), allowed, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return InputError(f"{parameter} {shown(value)} is unknown{hint} (allowed: {', '.join(allowed)})")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device, or that there is none for another thread."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # torch's
    words = ("out of memory", "can't allocate memory", "can't start new thread")
    return named or any(word in str(error) for word in words)
