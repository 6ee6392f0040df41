"""A check as people and programs read it: a table, sentences, Markdown, JSON."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from kvhelpers.compare.verdict import EXIT_CODES, FORMAT, RIGHT, SAFE, WORSE, Check, points
from kvhelpers.format import markdown_table, p_value

TITLES = {SAFE: "Safe", WORSE: "Worse", "undecided": "Undecided"}


def table(done: Check) -> pd.DataFrame:
    """The outcomes as a table for people."""
    shown_rows = []
    for row in done.outcomes.itertuples():
        difference = points(row.difference, row.low, row.high)
        shown_rows.append(
            {
                "outcome": row.outcome,
                "base": f"{row.base} of {row.n}",
                "other": f"{row.other} of {row.n}",
                "only base": row.only_base,
                "only other": row.only_other,
                "difference (points)": difference,
                "p": p_value(row.p),
                "verdict": "" if pd.isna(row.verdict) else row.verdict,
            }
        )
    return pd.DataFrame(shown_rows)


def advice(done: Check) -> str:
    """What to do, in a sentence."""
    n = len(done.answers)
    if done.verdict == SAFE:
        return f"It may be turned on for work like these {n} prompts."
    if done.verdict == WORSE:
        worse = set(done.outcomes.query("verdict == @WORSE")["outcome"])
        if worse == {FORMAT}:
            return "Leave it off where a program reads the answers: fewer have the format that was asked for."
        return "Leave it off, or compress less."
    more = f"about {done.needed} prompts of this kind would decide" if done.needed else None
    return f"Do not decide yet: {more or 'more prompts of this kind would hardly decide'}; there are {n}."


def sentences(done: Check) -> list[str]:
    """What the table does not say at a glance: equal answers, lengths, onsets."""
    answers, unit = done.answers, done.unit
    same = int((answers["text_base"] == answers["text_other"]).sum())
    found = [f"{same} of {len(answers)} answers are the same, letter by letter."]
    rows = done.outcomes.set_index("outcome")
    if RIGHT in rows.index:
        lost, gained = rows.loc[RIGHT, ["only_base", "only_other"]]
        found.append(f"{lost} answers are no longer right, {gained} have become right.")
    lengths = [answers[f"length_{side}"].astype(float).mean() for side in ("base", "other")]
    found.append(f"Answers have {lengths[0]:.0f} {unit} on average in base, {lengths[1]:.0f} in other.")
    for side in ("base", "other"):
        onsets = answers[f"onset_{side}"].dropna()
        if len(onsets):
            median = f"{np.median(onsets.astype(float)):.0f}"
            found.append(f"Loops of {side} begin after {median} {unit} (median of {len(onsets)}).")
    rule = answers.attrs["loops"]
    found.append(f"Loops were found in the {'tokens' if rule == 'token ids' else 'text'} of both sets.")
    return found


def flips(done: Check) -> dict[str, pd.Series]:
    """Which rows of the answers are no longer right (``lost``), and which have become right (``gained``)."""
    before, after = (done.answers[f"correct_{side}"] for side in ("base", "other"))
    if before.isna().any() or after.isna().any():
        none = pd.Series(False, index=done.answers.index)
        return {"lost": none, "gained": none}
    before, after = before.astype(bool), after.astype(bool)
    return {"lost": before & ~after, "gained": after & ~before}


def as_json(done: Check) -> dict[str, Any]:
    """The check as JSON takes it."""
    answers = done.answers
    loops = {side: list(answers["id"][answers[f"looping_{side}"].astype(bool)]) for side in ("base", "other")}
    rows = done.outcomes.astype(object).where(done.outcomes.notna(), None).to_dict("records")
    return {
        "verdict": done.verdict,
        "exit_code": EXIT_CODES[done.verdict],
        "reason": done.reason,
        "advice": advice(done),
        "margin": done.margin,
        "prompts": len(answers),
        "prompts_that_would_decide": done.needed,
        "base": {"name": done.base.name} | done.base.about,
        "other": {"name": done.other.name} | done.other.about,
        "outcomes": rows,
        "answers": {name: list(answers["id"][where]) for name, where in flips(done).items()},
        "loops": loops,
        "loops_found_in": answers.attrs["loops"],
        "lengths_in": done.unit,
        "notes": list(done.notes),
    }


def as_markdown(done: Check) -> str:
    """A summary for a pull request or a screen."""
    lines = [
        f"## {TITLES[done.verdict]}: {done.other.name} beside {done.base.name}",
        f"{advice(done)} On {len(done.answers)} prompts: {done.reason}.",
        markdown_table(table(done)),
        " ".join(sentences(done)),
        "\n".join(f"- {note}" for note in done.notes),
    ]
    return "\n\n".join(filter(None, lines)) + "\n"
