"""``onestep``: word problems of one addition, which a very small model solves as long as it sees the whole prompt."""

from __future__ import annotations

import random
from collections.abc import Iterator

NAMES = ("Eva", "Tom", "Mia", "Ben", "Ana", "Leo", "Zoe", "Max", "Ida", "Sam", "Lily", "Jack", "Nora", "Paul", "Ruth", "Hugo")
THINGS = ("coins", "apples", "books", "pens", "cards", "shells", "stamps", "eggs", "balls", "cups", "keys", "roses")
VERBS = ("finds", "buys", "gets")
NUMBERS = range(2, 10)
DISTINCT = len(NAMES) * len(THINGS) * len(VERBS) * len(NUMBERS) ** 2


def onestep_problems(n: int, seed: int) -> Iterator[tuple[str, str, str]]:
    """Yield ``n`` (at most `DISTINCT`) different problems as (question, worked solution, answer).

    A larger ``n`` begins with the same ones.
    """
    draw = random.Random(f"onestep-{seed}")
    seen = set()
    while len(seen) < n:
        story = name, things, verb = draw.choice(NAMES), draw.choice(THINGS), draw.choice(VERBS)
        first, second = draw.choice(NUMBERS), draw.choice(NUMBERS)
        if (story, first, second) in seen:
            continue
        seen.add((story, first, second))
        told = f"{name} has {first} {things}. {name} {verb} {second} more {things}."
        total = first + second
        solution = f"{told} In total {name} has {first} + {second} = {total} {things}.\n#### {total}"
        yield f"{told} How many {things} does {name} have in total?", solution, str(total)
