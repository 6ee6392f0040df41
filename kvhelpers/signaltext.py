"""Tables and sentences about signals and failure modes; they turn around when the data do."""

from __future__ import annotations

import numpy as np
import pandas as pd

from kvhelpers.analysis import FIRST, Analysis
from kvhelpers.bootstrap import Estimate
from kvhelpers.discriminators import LENGTH, OUTCOMES, POOLED, REMOVED, WITHIN
from kvhelpers.modes import MODES
from kvhelpers.prediction import FIRST_TOKEN, HIGH, Warnings

GAP = "–"
ENOUGH_RUNS = 5  # looping runs behind a mean that a sentence speaks of


def left_out_sentence(found: Analysis) -> list[str]:
    """Names the cells that take no part in what follows."""
    names = ", ".join(f"`{cell}`" for cell in found.left_out)
    return [f"Left out of what follows, because of their flags: {names}."] if names else []


def onset_sentences(found: Analysis) -> list[str]:
    """Where looping runs differ from their controls, before the onset and from it on."""
    sentences = []
    for name, title in (("entropy", "Entropy"), ("top1_prob", "Top-1 probability")):
        table = found.aligned[name]
        if not len(table):
            sentences.append(f"{title} around the onset: no looping run has another run of its cell to be compared with.")
            continue
        parts = [
            _difference(table[table["offset"] < 0], "before the onset"),
            _difference(table[table["offset"] >= 0], "from the onset on"),
        ]
        sentences.append(f"{title} of looping runs against their controls: {'; '.join(parts)}.")
    return [
        *sentences,
        "Each token has its own 95 % interval, not corrected for their number: about 1 in 20 would exclude 0 by chance.",
    ]


def _difference(table: pd.DataFrame, where: str) -> str:
    known = table[table["difference_low"].notna() & (table["n"] >= ENOUGH_RUNS)]
    if not len(known):
        return f"{where} too few runs for an interval"
    higher, lower = int((known["difference_low"] > 0).sum()), int((known["difference_high"] < 0).sum())
    fewest, most = known["n"].min(), known["n"].max()
    return f"{where} higher at {higher} and lower at {lower} of {len(known)} tokens ({fewest} to {most} looping runs at each)"


def warning_sentences(found: Analysis) -> list[str]:
    """Whether high and low entropy warn of a loop; the sentences follow the numbers, whichever way they fall."""
    judged = [w for w in found.warnings.values() if w is not None]
    if not judged:
        return ["No uncompressed run, so no threshold can be set without looking at failures: prediction is not judged."]
    immediate, sentences = judged[0].immediate, []
    if immediate:
        sentences.append(
            f"{immediate} looping runs begin to loop at token 0 or {FIRST_TOKEN}, before the compressed cache has shown in any "
            "signal: nothing could warn of them, and they are not counted below."
        )
    if not judged[0].loops:
        return [*sentences, "No run loops later than that, so nothing can be said about prediction."]
    return sentences + [f"{_caught(w)} {_cost(w)} {_verdict(w)}" for w in judged]


def _caught(w: Warnings) -> str:
    side, quantile = ("above", w.quantile) if w.direction == HIGH else ("below", 1 - w.quantile)
    told = (
        f"**{w.direction.capitalize()} entropy**, {side} {w.threshold:.3g} nats (the {quantile:.4g} quantile of the "
        f"{w.threshold_tokens} tokens of uncompressed runs), occurs before the onset in {w.caught.percent()} of {w.loops} "
        "looping runs"
    )
    if not len(w.lead):
        return f"{told}."
    low, middle, high = np.percentile(w.lead, [25, 50, 75])
    missed = w.loops - len(w.lead)
    return (
        f"{told}, first {middle:g} tokens before it (median; quartiles {low:g} and {high:g}); "
        f"without one before the onset: {missed}."
    )


def _cost(w: Warnings) -> str:
    if w.false_alarms is None:
        return "There is no healthy run to count false alarms in."
    kind = "compressed" if w.healthy_compressed else "uncompressed (the threshold's own)"
    return (
        f"Of {w.false_alarms.n} healthy {kind} runs {w.false_alarms.percent()} raise a false alarm, "
        f"{w.alarms_per_run.text(1)} alarms a run."
    )


def _verdict(w: Warnings) -> str:
    if w.excess is None:
        return "At no onset was another run of the cell still going without a loop: nothing to compare with, **no verdict**."
    compared = (
        "By chance? Runs of the same cell that at that token are still going without a loop have had it in "
        f"{w.by_chance.percent()}, the looping runs in {w.matched.percent()}: difference {100 * w.excess.value:+.0f} points "
        f"[{_ends(w.excess)}], {w.excess.n} looping runs of {w.excess.prompts} prompts"
    )
    if w.excess.low is None:
        return f"{compared}: **too few prompts to say** whether it warns of loops."
    if w.excess.low > 0:
        return f"{compared}: **it warns of loops**, more than cell and position do."
    if w.excess.high < 0:
        return f"{compared}: **it does not warn of loops**; it comes less often before them than otherwise."
    return f"{compared}: **it does not warn of loops**, as far as these runs can tell."


def _ends(estimate: Estimate) -> str:
    return "no interval" if estimate.low is None else f"{100 * estimate.low:+.0f}, {100 * estimate.high:+.0f}"


def discriminator_table(table: pd.DataFrame, among: str = WITHIN) -> pd.DataFrame:
    """AUROC with interval by feature and outcome; a gap is named in the heading of the outcome it concerns."""
    part = table[table["among"] == among]
    columns = {"Number of the run": list(dict.fromkeys(part["feature"]))}
    for outcome in OUTCOMES.values():
        rows = part[part["outcome"] == outcome].set_index("feature")
        columns[_heading(outcome, rows)] = [_auroc(rows.loc[feature]) for feature in columns["Number of the run"]]
    return pd.DataFrame(columns)


def press_table(table: pd.DataFrame, outcome: str = "looping") -> pd.DataFrame:
    """AUROC with interval by feature and press, for one outcome."""
    part = table[(table["outcome"] == outcome) & ~table["among"].isin([WITHIN])]
    columns = {"Number of the run": list(dict.fromkeys(part["feature"]))}
    for among in dict.fromkeys(part["among"]):
        rows = part[part["among"] == among].set_index("feature")
        columns[_heading("all presses" if among == POOLED else among, rows)] = [
            _auroc(rows.loc[feature]) for feature in columns["Number of the run"]
        ]
    return pd.DataFrame(columns)


def _heading(title: str, rows: pd.DataFrame) -> str:
    return f"{title} ({rows['failed'].max()} of {rows['n'].max()} runs)"


def _auroc(row: pd.Series) -> str:
    if pd.isna(row["auroc"]):
        return GAP
    return Estimate(row["auroc"], *(None if pd.isna(row[end]) else row[end] for end in ("low", "high")), row["n"], 0).text()


def discriminator_sentences(found: Analysis) -> list[str]:
    """The best number for each outcome beside the trivial ones, within cells; gaps named."""
    sentences = []
    for outcome in OUTCOMES.values():
        told = []
        for table, part in ((found.discriminators, "of the whole run"), (found.early, f"of its first {FIRST} tokens")):
            rows = table[(table["among"] == WITHIN) & (table["outcome"] == outcome)].set_index("feature")
            known = rows[rows["auroc"].notna()]
            signal = known.drop(index=[REMOVED, LENGTH], errors="ignore")
            if not len(signal):
                told.append(f"{part}, none can be told ({rows['gap'].iloc[0] if len(rows) else 'no run'})")
                continue
            best = (signal["auroc"] - 0.5).abs().idxmax()
            length = f", length alone {_auroc(known.loc[LENGTH])}" if LENGTH in known.index else ""
            told.append(f"{part}, {best} tells it best: {_auroc(known.loc[best])}{length}")
        sentences.append(f"{outcome.capitalize()}: {'; '.join(told)}.")
    return sentences


def mode_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs of each cell by failure mode."""
    counts = pd.crosstab(runs["cell"], runs["mode"]).reindex(index=list(dict.fromkeys(runs["cell"])))
    counts = counts.reindex(columns=list(MODES), fill_value=0)
    counts.insert(0, "Cell", [f"`{cell}`" for cell in counts.index])
    return counts.assign(n=runs.groupby("cell").size()).rename_axis(columns=None).reset_index(drop=True)
