"""``onestep``: word problems of one addition, which a very small model solves as long as it sees the whole
prompt.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from kvhelpers.errors import InputError
from kvhelpers.tasks.prompts import Problem

NAMES = (
    "Eva",
    "Tom",
    "Mia",
    "Ben",
    "Ana",
    "Leo",
    "Zoe",
    "Max",
    "Ida",
    "Sam",
    "Lily",
    "Jack",
    "Nora",
    "Paul",
    "Ruth",
    "Hugo",
)
THINGS = (
    "coins",
    "apples",
    "books",
    "pens",
    "cards",
    "shells",
    "stamps",
    "eggs",
    "balls",
    "cups",
    "keys",
    "roses",
)
VERBS = ("finds", "buys", "gets")
NUMBERS = range(2, 10)
DISTINCT = len(NAMES) * len(THINGS) * len(VERBS) * len(NUMBERS) ** 2


def onestep_problems(
    n_prompts: int,
    n_fewshot: int,
    seed: int,
    examples_seed: int | None = None,
) -> tuple[list[Problem], list[Problem]]:
    """Make problems and worked examples, all different; a larger number begins with the same ones. With an
    ``examples_seed`` the problems stay, with other examples.

    Raises
    ------
    InputError : more problems than there are (`DISTINCT`).
    """
    if n_fewshot + n_prompts > DISTINCT:
        raise InputError(
            f"n_prompts and n_fewshot ask for {n_fewshot + n_prompts} problems, but onestep has {DISTINCT}"
        )
    problems = list(itertools.islice(_endless(seed), n_fewshot + n_prompts))
    problems, examples = problems[n_fewshot:], problems[:n_fewshot]
    if examples_seed is not None:
        asked = {problem.question for problem in problems}
        others = (other for other in _endless(examples_seed) if other.question not in asked)
        examples = list(itertools.islice(others, n_fewshot))
    return problems, examples


def _endless(seed: int) -> Iterator[Problem]:
    draw = random.Random(f"onestep-{seed}")
    seen = set()
    while True:
        words = name, things, verb = draw.choice(NAMES), draw.choice(THINGS), draw.choice(VERBS)
        first, second = draw.choice(NUMBERS), draw.choice(NUMBERS)
        if (words, first, second) in seen:
            continue
        story = f"{name} has {first} {things}. {name} {verb} {second} more {things}."
        total = first + second
        solution = f"{story} In total {name} has {first} + {second} = {total} {things}.\n#### {total}"
        question = f"{story} How many {things} does {name} have in total?"
        row = f"onestep/{seed}/{len(seen)}"
        yield Problem(row, row, question, solution, str(total), asked=question)
        seen.add((words, first, second))
