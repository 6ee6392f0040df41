"""The log's sections on signals and on failure modes, and their figures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from kvhelpers import conclusions, figures, signalfigures, signaltext
from kvhelpers.analysis import FIRST, Analysis
from kvhelpers.discriminators import WITHIN
from kvhelpers.modes import CORRECT, FAILED, MODES
from kvhelpers.presses import NONE
from kvhelpers.results import CellResult
from kvhelpers.summary import most_interesting
from kvhelpers.tables import find_baseline, markdown_table, signals_table

EXCERPT = 400  # characters; of a looping run, half of them before the onset
AROUND = 32  # tokens of the token-by-token trace before and after the onset


def instructive_run(cells: Sequence[CellResult], found: Analysis) -> tuple[CellResult, dict[str, Any]]:
    """The run to look at: `summary.most_interesting` among the cells that are valid, if there is one."""
    valid = [cell for cell in cells if cell.label not in found.left_out] or list(cells)
    pairs = [(cell, record) for cell in valid for record in cell.records]
    best = most_interesting([record for _, record in pairs])
    return next(pair for pair in pairs if pair[1] is best)


def run_tokens(cell: CellResult, record: Mapping[str, Any]) -> pd.DataFrame:
    """A run token by token: step, entropy, top1_prob, and piece, the token's text."""
    tokens = cell.signals(["prompt_index", "step", "char_end", "entropy", "top1_prob"])
    tokens = tokens[tokens["prompt_index"] == record["prompt_index"]].reset_index(drop=True)
    starts = tokens["char_end"].shift(fill_value=0)
    return tokens.assign(piece=[record["text"][a:b] for a, b in zip(starts, tokens["char_end"], strict=True)])


def token_trace(cells: Sequence[CellResult], found: Analysis) -> Figure | None:
    """The instructive run around its onset, token by token; None if it has no token."""
    cell, record = instructive_run(cells, found)
    onset, tokens = record["failures"]["loop_onset"], run_tokens(cell, record)
    middle = AROUND if onset is None else onset
    shown = tokens[tokens["step"].between(middle - AROUND, middle + AROUND)]
    return signalfigures.token_trace(shown, onset) if len(shown) else None


def trace(cells: Sequence[CellResult], found: Analysis) -> Figure | None:
    """The whole instructive run beside the uncompressed run of the same prompt; None if it has no token."""
    cell, record = instructive_run(cells, found)
    runs, baseline = [(cell.label, run_tokens(cell, record))], find_baseline(cells)
    same = [r for r in baseline.records if r["prompt_id"] == record["prompt_id"]] if baseline else []
    if same and baseline is not cell:
        runs.append((baseline.label, run_tokens(baseline, same[0])))
    return figures.trace(runs, record["failures"]["loop_onset"]) if len(runs[0][1]) else None


def draw(cells: Sequence[CellResult], found: Analysis) -> dict[str, Figure]:
    """The figures of both sections, by name; those that have nothing to show are missing."""
    told_apart = (found.discriminators["among"] == WITHIN) & found.discriminators["auroc"].notna()
    drawn = {
        "trace": trace(cells, found),
        "tokens": token_trace(cells, found),
        "heatmap": signalfigures.heat_map(found.runs, found.signals["entropy"]),
        "onset": signalfigures.aligned(found.aligned) if len(found.aligned["entropy"]) else None,
        "discriminators": signalfigures.discriminator_dots(found.discriminators) if told_apart.any() else None,
        "modes": signalfigures.mode_bars(found.runs),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def signal_section(cells: Sequence[CellResult], found: Analysis, images: Mapping[str, str]) -> list[str]:
    """Paragraphs of the section "Signal analysis"."""
    cell, record = instructive_run(cells, found)
    run = f"`{cell.label}`, prompt {record['prompt_id']}"
    return [
        "Means over runs of the run's mean entropy, largest entropy (nats) and smallest top-1 probability, with 95 % intervals "
        "by bootstrap over prompts. A longer run has more chances of an extreme value: compare extremes only with the average "
        "tokens in mind.",
        markdown_table(signals_table(cells)),
        image(
            images,
            "heatmap",
            f"Entropy of every run by token, of at most {signalfigures.SHOWN} cells; crosses are loop onsets, dots are ends",
        ),
        image(images, "trace", f"Entropy and top-1 probability of {run}, and of the uncompressed run"),
        image(images, "tokens", f"The same run, {run}, token by token"),
        *signaltext.left_out_sentence(found),
        "### Around the onset of loops",
        "\n".join(f"- {sentence}" for sentence in signaltext.onset_sentences(found)),
        image(images, "onset", "Mean entropy and top-1 probability around the onset, looping runs and controls"),
        "### Does entropy warn of loops?",
        "\n".join(f"- {sentence}" for sentence in signaltext.warning_sentences(found)),
        "### What tells failed runs from others?",
        "AUROC of one number per run, pairs of runs of the same cell only, with 95 % intervals by bootstrap over prompts; "
        "below .5, failing runs have the smaller values. A number of the whole run has seen the failure: this describes, it "
        "does not predict. The number named is the best of all on these same runs, so a little flattered; in the first "
        f"{FIRST} tokens some loops have already begun.",
        "\n".join(f"- {sentence}" for sentence in signaltext.discriminator_sentences(found)),
        markdown_table(signaltext.discriminator_table(found.discriminators)),
        image(images, "discriminators", "AUROC of each number within cells"),
        "Looping, by press (runs of all ratios together, so that the ratio alone tells something):",
        markdown_table(signaltext.press_table(found.discriminators)),
    ]


def mode_section(cells: Sequence[CellResult], found: Analysis, images: Mapping[str, str]) -> list[str]:
    """Paragraphs of the section "Failure modes": counts, picture, and one excerpt of each mode."""
    parts = [
        "One mode per run, the first that applies: failed (stopped by an error); looping; non-termination; instruction amnesia "
        "(ended with a wrong answer to another problem than the one asked); reasoning corruption (ended with a wrong answer to "
        "the problem asked); correct.",
        markdown_table(signaltext.mode_table(found.runs)),
        image(images, "modes", "Failure modes of each cell"),
    ]
    pairs = [(cell, record) for cell in cells for record in cell.records]
    order = [instructive_run(cells, found), *sorted(pairs, key=lambda pair: pair[0].config["press"] == NONE)]
    mode_of = dict(zip((id(record) for _, record in pairs), found.runs["mode"], strict=True))
    for mode in reversed(MODES):
        if mode in (CORRECT, FAILED):
            continue
        pair = next((pair for pair in order if mode_of[id(pair[1])] == mode), None)
        parts.append(f"**{mode.capitalize()}:** " + (excerpt(*pair) if pair else "no run."))
    cut = conclusions.cut_sentences(cells)
    return [*parts, "**Failed or timed out:** " + (" ".join(cut) if cut else "no run.")]


def excerpt(cell: CellResult, record: Mapping[str, Any]) -> str:
    """A run's text with what is known about it; of a looping run, the part around its onset."""
    text, onset = record["text"], record["loop_onset_char"] if record["failures"]["looping"] else None
    where, first = "", 0
    if onset is not None:
        where = f"; the loop starts at token {record['failures']['loop_onset']}, here after ⟦loop⟧"
        text, first = f"{text[:onset]}⟦loop⟧{text[onset:]}", max(0, onset - EXCERPT // 2)
    text = ("[…] " if first else "") + text[first : first + EXCERPT] + (" […]" if len(text) > first + EXCERPT else "")
    return (
        f"`{cell.label}`, prompt {record['prompt_id']}, right answer {record['reference']}, "
        f"{record['n_tokens']} tokens, stop reason `{record['stop_reason']}`{where}:\n\n{_quote(text)}"
    )


def _quote(text: str) -> str:
    """Model output as a code block that it cannot break out of."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def image(images: Mapping[str, str], name: str, caption: str) -> str:
    """A figure with its caption, or nothing if it was not drawn."""
    return f"![{caption}]({images[name]})" if name in images else ""
