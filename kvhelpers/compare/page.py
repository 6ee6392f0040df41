"""The check as one HTML file: no scripts, nothing from elsewhere, readable on a phone."""

from __future__ import annotations

import io
import re
import unicodedata
from html import escape

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kvhelpers.answers import SHOWN_AS_CODE
from kvhelpers.compare.verdict import JUDGED, SIDES, Check
from kvhelpers.compare.words import TITLES, advice, flips, sentences, table
from kvhelpers.plots import COLOURS, LOOPING, STYLE, legend_above

SHOWN = 60  # answers side by side
BEFORE, WITHIN = 1500, 500  # characters shown before a loop, and of it
WIDTH = 4.6  # inches: read at the width of a phone
CSS = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1rem;color:#111;background:#fff}
h1{margin:0 0 .5rem;padding:.6rem .8rem;color:#fff;border-radius:.4rem}
.safe{background:#1b6e3c}.worse{background:#a01c24}.undecided{background:#6a5300}
.do{font-size:1.15rem;font-weight:600}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem}
th,td{border-bottom:1px solid #ccc;padding:.25rem .6rem;text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left;white-space:normal;min-width:9rem}
.two{display:grid;gap:.6rem 1rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr))}
figure{margin:0}svg{max-width:100%;height:auto}
pre{margin:0;padding:.5rem;background:#f4f4f4;white-space:pre-wrap;overflow-wrap:anywhere;font-size:.85rem}
mark{background:#ffd8a8}article{border-top:1px solid #ccc;padding:.4rem 0}h3{margin:.3rem 0;font-size:1rem}
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(done: Check) -> str:
    """The whole page."""
    shown = _shown(done)
    left = len(shown) - SHOWN
    answers = "\n".join(_article(done, row) for _, row in shown[:SHOWN].iterrows())
    notes = "".join(f"<li>{_safe(note)}</li>" for note in done.notes)
    rest = f"<p>{left} more are in the files.</p>" if left > 0 else ""
    title = f"{TITLES[done.verdict]}: {done.other.name}"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">
<title>{_safe(title)}</title>
<style>{CSS}</style>
</head>
<body>
<h1 class="{done.verdict}">{TITLES[done.verdict]}</h1>
<p class="do">{_safe(advice(done))}</p>
<p>{_safe(done.other.name)} (other) beside {_safe(done.base.name)} (base), {len(done.answers)} prompts, margin
{100 * done.margin:g} points: {_safe(done.reason)}.</p>
<div class="wide">{_html_table(table(done))}</div>
<p>{_safe(" ".join(sentences(done)))} Intervals hold in 95 % of experiments.</p>
<div class="two">
<figure>{_svg(differences(done), "a")}</figure>
<figure>{_svg(lengths(done), "b")}</figure>
</div>
<ul>{notes}</ul>
<h2>Answers that changed sides, loop or are broken ({len(shown)})</h2>
{answers or "<p>None.</p>"}
{rest}
</body>
</html>
"""


def _safe(text: str) -> str:
    """Text for HTML; characters that would act or cannot be seen are written as their codes."""
    seen = (
        char if char in "\n\t" or unicodedata.category(char) not in SHOWN_AS_CODE else f"\\u{ord(char):04x}"
        for char in text
    )
    return escape("".join(seen))


def _html_table(shown: pd.DataFrame) -> str:
    head = "".join(f"<th>{_safe(name)}</th>" for name in shown.columns)
    rows = (
        "<tr>" + "".join(f"<td>{_safe(str(value))}</td>" for value in row) + "</tr>"
        for row in shown.itertuples(index=False)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _shown(done: Check) -> pd.DataFrame:
    """The answers to look at, longest loops first, then those that are broken, lost and gained."""
    answers = done.answers.assign(**flips(done))
    looped = [
        (answers["text" + side].str.len() - answers["onset_char" + side].astype(float)).where(
            answers["looping" + side].astype(bool)
        )
        for side in SIDES
    ]
    answers["loop"] = pd.concat(looped, axis=1).max(axis=1).fillna(0)
    answers["any_broken"] = answers["broken_base"] | answers["broken_other"]
    order = ["loop", "any_broken", "lost", "gained"]
    looping = answers["looping_base"].astype(bool) | answers["looping_other"].astype(bool)
    wanted = answers["any_broken"] | answers["lost"] | answers["gained"] | looping
    return answers[wanted].sort_values(order, ascending=False, kind="stable")


def _article(done: Check, row: pd.Series) -> str:
    what = "no longer right" if row["lost"] else "has become right" if row["gained"] else ""
    titles = {"_base": "base", "_other": "other"}
    sides = "".join(
        f"<div><h3>{titles[side]}: {_state(done, row, side)}</h3><pre>{_text(row, side)}</pre></div>"
        for side in SIDES
    )
    head = f"{row['id']}{': ' + what if what else ''}"
    return f'<article><h3>{_safe(head)}</h3><div class="two">{sides}</div></article>'


def _state(done: Check, row: pd.Series, side: str) -> str:
    right = row["correct" + side]
    parts = [] if pd.isna(right) else ["right" if right else "not right"]
    parts.append(f"{row['length' + side]} {done.unit}")
    if row["looping" + side]:
        at = row["onset" + side]
        parts.append("loops" if pd.isna(at) else f"loops after {at} {done.unit}")
    for name, words in (
        ("endless", "does not end"),
        ("empty", "empty"),
        ("never_left", "never leaves thinking"),
    ):
        if not pd.isna(row[name + side]) and row[name + side]:
            parts.append(words)
    return ", ".join(parts)


def _text(row: pd.Series, side: str) -> str:
    """The answer with its loop marked; of a long one the middle is left out."""
    text, onset = row["text" + side], row["onset_char" + side]
    if not row["looping" + side] or pd.isna(onset):
        return _safe(_cut(text, BEFORE + WITHIN))
    before, loop = text[: int(onset)], text[int(onset) :]
    kept = f"[… {len(before) - BEFORE:,} characters …] {before[-BEFORE:]}" if len(before) > BEFORE else before
    return f"{_safe(kept)}<mark>{_safe(_cut(loop, WITHIN))}</mark>"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]} [… {len(text) - most:,} more characters]"


def differences(done: Check) -> Figure:
    """Other minus base in points, with 95 % intervals, those that are judged in colour; the margin shaded."""
    rows = done.outcomes[::-1].reset_index(drop=True)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.32 * len(rows) + 1.0), layout="constrained")
        axes = figure.subplots()
        for place, row in rows.iterrows():
            colour = COLOURS[0] if row["outcome"] in JUDGED else "0.5"
            ends = [[100 * (row["difference"] - row["low"])], [100 * (row["high"] - row["difference"])]]
            axes.errorbar([100 * row["difference"]], [place], xerr=np.abs(ends), fmt="o", ms=4, color=colour)
        margin = 100 * done.margin
        axes.axvspan(-margin, margin, color="0.9", zorder=0)
        axes.axvline(0, color="0.4", linewidth=0.8)
        names = [name.split(" as the other")[0] for name in rows["outcome"]]
        axes.set_yticks(range(len(rows)), names)
        axes.set_xlabel(f"other minus base, points; shaded: the margin of {margin:g}")
    return figure


def lengths(done: Check) -> Figure:
    """Lengths of both answers to each prompt; prompts of which one loops are crosses."""
    answers = done.answers
    here, there = (answers["length" + side].astype(float).clip(lower=1) for side in SIDES)
    loops = answers["looping_base"].astype(bool) | answers["looping_other"].astype(bool)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
        axes = figure.subplots()
        drawn = {}
        for name, part, look in (
            ("no loop", ~loops, {"marker": "o", "s": 12, "color": COLOURS[0], "alpha": 0.6}),
            ("one of both loops", loops, {"marker": "x", "s": 24, "color": LOOPING}),
        ):
            if part.any():
                drawn[name] = axes.scatter(here[part], there[part], **look)
        ends = [min(here.min(), there.min()), max(here.max(), there.max())]
        axes.plot(ends, ends, color="0.6", linewidth=0.8)
        axes.set(xscale="log", yscale="log")
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.yaxis.set_major_formatter("{x:.0f}")
        axes.set_xlabel(f"{done.unit} of base's answer")
        axes.set_ylabel(f"{done.unit} of other's answer")
        legend_above(figure, drawn)
    return figure


def _svg(figure: Figure, name: str) -> str:
    """A figure as an element of the page, the same for the same data."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}):
        figure.savefig(
            buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    return re.sub(r'<g id="[^"]*"', "<g", text)  # both figures have groups of the same names
