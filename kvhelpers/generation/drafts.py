"""Guess a run's next tokens from its own past: exact speculation without a second model.

What followed the last occurrence of the run's latest tokens, in its prompt or its answer, is drafted (prompt
lookup, Saxena 2023, https://github.com/apoorvumang/prompt-lookup-decoding). A pass of the model over the
drafted tokens tells which of them greedy decoding would have chosen, and only these count (Leviathan et al.
2023, https://arxiv.org/abs/2211.17192). A run that loops drafts itself.
"""

from __future__ import annotations

from collections.abc import Sequence

SUFFIXES = (4, 3, 2)  # tokens that must have occurred before, the longest first
MOST = 16  # tokens drafted for a row in a pass
CHEAP_TOKENS = {"cpu": 16, "mps": 16, "cuda": 128}  # a pass over so many takes hardly longer than over one
PASS_TOKENS = {"cpu": 256, "mps": 256, "cuda": 1024}  # tokens of a pass at most


class Drafter:
    """One run's past.

    ``streak`` is how many of the latest tokens in a row it would have guessed right.
    """

    def __init__(self, prompt: Sequence[int]):
        self.past: list[int] = []
        self.followed_at: dict[tuple[int, ...], int] = {}  # suffix → place of the token after it
        self.streak = 0
        for token in prompt:
            self.append(token)
        self.streak = 0

    def append(self, token: int) -> None:
        """Take note of the next token."""
        self.streak = self.streak + 1 if self.draft(1) == [token] else 0
        for size in SUFFIXES:
            if len(self.past) >= size:
                self.followed_at[tuple(self.past[-size:])] = len(self.past)
        self.past.append(token)

    def draft(self, count: int) -> list[int]:
        """So many tokens that may come next, none if nothing like the latest tokens occurred before; what
        runs into the present goes on with itself.
        """
        suffixes = (tuple(self.past[-size:]) for size in SUFFIXES)
        place = next((self.followed_at[one] for one in suffixes if one in self.followed_at), None)
        if place is None:
            return []
        period = len(self.past) - place
        return [self.past[place + index % period] for index in range(count)]


def draft_lengths(streaks: Sequence[int], device: str) -> list[int]:
    """How many tokens to draft for each row of a pass.

    A row whose past has guessed so many tokens right is trusted with as many more. Where few rows are left,
    all may draft what hardly costs time.
    """
    rows = max(len(streaks), 1)
    free = CHEAP_TOKENS[device] // rows - 1
    most = min(MOST, max(PASS_TOKENS[device] // rows - 1, 0))
    return [min(max(streak, free), most) for streak in streaks]
