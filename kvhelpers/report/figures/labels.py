"""Short labels: what all conditions of a panel have in common stands once, in its title."""

from __future__ import annotations

import re
from collections.abc import Sequence

BETWEEN = re.compile(r", (?![^\[]*\])| \(|\)")  # fields, not the members of a list


def pieces(text: str) -> list[str]:
    """The amount and the fields that a condition's label, or a part of it, consists of, each once."""
    return list(dict.fromkeys(piece for piece in BETWEEN.split(text) if piece))


def shortened(texts: Sequence[str]) -> tuple[str, list[str]]:
    """What all texts say, and what each of them says besides.

    Texts that could not be told apart by that stay as they are.
    """
    parts = [pieces(text) for text in texts]
    common = [piece for piece in parts[0] if all(piece in other for other in parts)]
    short = [", ".join(piece for piece in of_text if piece not in common) for of_text in parts]
    if len(set(short)) < len(set(texts)):
        return "", list(texts)
    return ", ".join(common), short
