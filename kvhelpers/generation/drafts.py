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
SURE = 4  # right guesses in a row after which a row is trusted with drafts that cost time
# a pass over so many takes hardly longer than over one; not measured on a GPU, where it forgoes the record
CHEAP_TOKENS = {"cpu": 12, "mps": 12, "cuda": 16}
PASS_TOKENS = {"cpu": 256, "mps": 256, "cuda": 1024}  # tokens of a pass at most


class Drafter:
    """One run's past.

    ``streak`` is how many of the latest tokens in a row its own answer would have guessed right: it grows
    while the run loops, not while it copies from its prompt, which ends sooner.
    """

    def __init__(self, prompt: Sequence[int]):
        self.past: list[int] = []
        self.followed_at: dict[tuple[int, ...], int] = {}  # suffix → place of the token after it
        self.streak, self.answer_at = 0, len(prompt)
        for token in prompt:
            self._note(token)

    def append(self, token: int) -> None:
        """Take note of the answer's next token."""
        place = self._place()
        guessed = place is not None and place >= self.answer_at and self.past[place] == token
        self.streak = self.streak + 1 if guessed else 0
        self._note(token)

    def _note(self, token: int) -> None:
        for size in SUFFIXES:
            if len(self.past) >= size:
                self.followed_at[tuple(self.past[-size:])] = len(self.past)
        self.past.append(token)

    def _place(self) -> int | None:
        """Where the latest tokens, as many as possible, were followed last."""
        suffixes = (tuple(self.past[-size:]) for size in SUFFIXES)
        return next((self.followed_at[one] for one in suffixes if one in self.followed_at), None)

    def draft(self, count: int) -> list[int]:
        """So many tokens that may come next, none if nothing like the latest tokens occurred before; what
        runs into the present goes on with itself.
        """
        place = self._place()
        if place is None:
            return []
        period = len(self.past) - place
        return [self.past[place + index % period] for index in range(count)]


def draft_lengths(streaks: Sequence[int], device: str) -> list[int]:
    """How many tokens to draft for each row of a pass.

    A row whose answer has guessed enough tokens right is trusted with half as many more. Where few rows are
    left, all may draft what hardly costs time.
    """
    rows = max(len(streaks), 1)
    free = CHEAP_TOKENS[device] // rows - 1
    most = min(MOST, max(PASS_TOKENS[device] // rows - 1, 0))
    return [min(max(streak // 2 if streak >= SURE else 0, free), most) for streak in streaks]
