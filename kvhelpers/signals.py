"""What signals show of failing runs: whether a threshold warns of loops, what happens around a loop's onset,
which number of a run tells failed runs from others.

Functions take `frames.runs` and a signal or the tokens of these runs, and return frames; all intervals are
95 %, by bootstrap over prompts (`stats.bootstrap`). Runs whose flags take away their meaning are for the
caller to leave out: ``runs[runs["valid"]]``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import norm

from kvhelpers import frames
from kvhelpers.errors import InputError
from kvhelpers.records import FIRST_COMPRESSED_TOKEN
from kvhelpers.stats import (
    Estimate,
    auroc_of_pairs,
    draw,
    estimate,
    intervals,
    known,
    mean,
    percentile_ends,
    proportion,
    simultaneous_errors,
    widened,
    wilson,
)

QUANTILES = (0.9, 0.95, 0.99, 0.995)
LAST = 10  # tokens before the onset, of alarms that come just before it
ENOUGH_PROMPTS = 10  # that loop; a bootstrap over fewer is too narrow for an excess of alarms
BEFORE, AFTER = 64, 32  # tokens around the onset
FIRST = 16  # tokens of a run's early numbers
SIGNALS = ("entropy", "varentropy", "top1_prob", "margin")
CONFIDENT = 0.99  # top-1 probability
REMOVED, LENGTH = "share removed", "length"  # trivial numbers of a run
FAILURES = ("looping", "non_termination", "wrong_answer")


def wide(runs: pd.DataFrame, tokens: pd.DataFrame, name: str) -> pd.DataFrame:
    """A signal, a row per run in the order of ``runs``, a column per step; NaN behind a run's end."""
    return tokens.pivot(index="run", columns="step", values=name).reindex(runs["run"])


def alarms(
    runs: pd.DataFrame,
    signal: pd.DataFrame,
    quantiles: Sequence[float] = QUANTILES,
    last: int | None = None,
) -> pd.DataFrame:
    """Does the signal cross a threshold before the loop begins, and more often than in comparable runs?

    Thresholds are the ``quantiles`` of the uncompressed tokens (``high``: an alarm is a value above it), and
    1 minus these (``low``: below it), so that nothing about failures was used to choose them. An alarm counts
    from new token 1, since token 0 comes from full attention, and anywhere before the onset, or within the
    ``last`` tokens before it. A loop with its onset at token 0 or 1 cannot be warned of.

    Each looping run is compared with the runs of its condition that at its onset are still going and have not
    begun to loop (incidence density sampling: Miettinen 1976,
    https://doi.org/10.1093/oxfordjournals.aje.a112220): which share of them has had an alarm in the same
    tokens?

    Parameters
    ----------
    runs : from `frames.runs`.
    signal : from `wide`.

    Returns
    -------
    The long frame: ``subject`` is ``high .99``, ``low .01``, ``question`` names signal and tokens. Metrics:
    *threshold*, of n tokens; *caught*, share of loops with an alarm before them; *matched*, the same of loops
    that have comparable runs, *by chance*, the share of these runs, and *excess*, the difference, whose
    interval holds for all thresholds together and is missing where fewer than 10 prompts loop (Cameron,
    Gelbach and Miller 2008, https://doi.org/10.1162/rest.90.3.414); *lead*, the median number of tokens from
    the first alarm to the onset; *false alarms*, share of healthy runs that have one, and *alarms per run*,
    their mean number. Healthy runs end with the right answer; they are compressed ones where there are any.
    *immediate* counts loops that nothing could warn of. Empty if there is no uncompressed token.

    Raises
    ------
    InputError : no quantiles, or one outside (0.5, 1).
    """
    if not isinstance(quantiles, list | tuple) or not quantiles or not all(map(_is_upper, quantiles)):
        raise InputError(
            f"quantiles {quantiles!r} is not allowed; it is a list of shares of the uncompressed tokens, "
            "each above 0.5 and below 1"
        )
    values = signal.to_numpy(float)[:, FIRST_COMPRESSED_TOKEN:]
    plain = values[frames.uncompressed(runs).to_numpy()]
    plain = plain[np.isfinite(plain)]
    if not len(plain):
        return frames.long_frame([])
    rules = [(side, quantile) for side in ("high", "low") for quantile in quantiles]
    limits = [float(np.quantile(plain, q if side == "high" else 1 - q)) for side, q in rules]
    crossed = np.stack(
        [values > t if side == "high" else values < t for t, (side, _) in zip(limits, rules, strict=True)]
    )
    prompts = runs["prompt"].to_numpy()
    onset = runs["onset"].to_numpy(float, na_value=np.inf)
    loops = np.flatnonzero(np.isfinite(onset) & (onset > FIRST_COMPRESSED_TOKEN))
    hits = _hits(crossed, onset[loops].astype(int), last)
    own = hits[:, np.arange(len(loops)), loops]  # [thresholds, loops]
    first = crossed.argmax(2)[:, loops] + FIRST_COMPRESSED_TOKEN
    healthy = (~runs["catastrophic"] & ~runs["errored"]).to_numpy()
    compressed = healthy & ~frames.uncompressed(runs).to_numpy()
    healthy = compressed if compressed.any() else healthy
    calm = crossed[:, healthy]
    starts = calm & ~np.pad(calm, ((0, 0), (0, 0), (1, 0)))[:, :, :-1]
    excess = _excess(runs, hits, onset, loops)
    question = "alarm " + ("before the loop" if last is None else f"in the {last} tokens before the loop")
    rows = []
    for i, (side, quantile) in enumerate(rules):
        share = quantile if side == "high" else 1 - quantile
        subject = f"{side} {share:g}".replace("0.", ".")
        made = {"caught": proportion(own[i], prompts[loops])} | excess[i]
        made |= {"false alarms": proportion(calm[i].any(1), prompts[healthy])}
        made |= {"alarms per run": estimate(mean(starts[i].sum(1)), prompts[healthy])}
        rows.append(frames.row(question, subject, "threshold", limits[i], n=len(plain)))
        rows += [frames.estimate_row(question, subject, metric, value) for metric, value in made.items()]
        rows[-3]["verdict"] = _verdict(made["excess"])
        lead = (onset[loops] - first[i])[own[i]]
        rows += [frames.row(question, subject, "lead", np.median(lead), n=len(lead))] if len(lead) else []
    rows.append(frames.row(question, "all", "loops", len(loops)))
    rows.append(frames.row(question, "all", "immediate", (onset <= FIRST_COMPRESSED_TOKEN).sum()))
    return frames.long_frame(rows)


def _is_upper(share: object) -> bool:
    return isinstance(share, float) and 0.5 < share < 1


def _hits(crossed: np.ndarray, onsets: np.ndarray, last: int | None) -> np.ndarray:
    """Whether each run crosses in the tokens before each loop's onset, ``[thresholds, loops, runs]``, from
    ``crossed [thresholds, runs, tokens]``.
    """
    so_far = np.pad(crossed.cumsum(2, dtype=np.int32), ((0, 0), (0, 0), (1, 0)))
    ends = onsets - FIRST_COMPRESSED_TOKEN
    begins = np.zeros_like(ends) if last is None else np.maximum(ends - last, 0)
    return (so_far[:, :, ends] - so_far[:, :, begins] > 0).transpose(0, 2, 1)


def _excess(
    runs: pd.DataFrame, hits: np.ndarray, onset: np.ndarray, loops: np.ndarray
) -> list[dict[str, Estimate | None]]:
    """For each threshold, loops against the runs of their condition that are at risk at their onset."""
    condition = pd.factorize(runs["condition"])[0]
    prompts, tokens = runs["prompt"].to_numpy(), runs["tokens"].to_numpy()
    at = onset[loops][:, None]
    same = condition == condition[loops][:, None]
    at_risk = same & (tokens > at) & (onset > at) & ~runs["errored"].to_numpy()  # [loops, runs]
    usable = at_risk.any(1)
    loops, at_risk, hits = loops[usable], at_risk[usable].astype(float), hits[:, usable]
    if not len(loops):
        return [dict.fromkeys(("matched", "by chance", "excess"))] * len(hits)

    def shares(weights: np.ndarray) -> np.ndarray:
        """Shares of the loops and of the others with an alarm, and the difference, one after the other for
        all thresholds: ``[draws, 3 * thresholds]``.
        """
        others = weights @ at_risk.T
        share = weights[:, loops] * (others > 0)
        pairs = [
            np.stack(
                [
                    share @ hit[np.arange(len(loops)), loops],
                    (share * np.nan_to_num(weights @ (at_risk * hit).T / others)).sum(1),
                ]
            )
            for hit in hits
        ]
        of_loops, of_others = np.stack(pairs, axis=-1) / share.sum(1)[:, None]
        return np.concatenate([of_loops, of_others, of_loops - of_others], axis=1)

    k = len(hits)
    with np.errstate(divide="ignore", invalid="ignore"):
        values, drawn = draw(shares, prompts)
    n_loops, n_others = (len(set(prompts[rows])) for rows in (loops, at_risk.any(0)))
    counts = np.repeat([n_loops, n_others], k)
    low, high = percentile_ends(drawn[:, : 2 * k], counts)
    made = [
        Estimate(float(value), *map(known, ends), len(loops), int(count))
        for value, count, *ends in zip(values[: 2 * k], counts, low, high, strict=True)
    ]
    errors, critical = simultaneous_errors(drawn[:, 2 * k :], n_loops)
    if n_loops < ENOUGH_PROMPTS:
        errors[:] = np.nan
    return [
        {
            "matched": widened(mine),
            "by chance": widened(theirs),
            "excess": _difference(mine, theirs, float(error), critical),
        }
        for mine, theirs, error in zip(made[:k], made[k:], errors, strict=True)
    ]


def _difference(mine: Estimate, theirs: Estimate, error: float, critical: float) -> Estimate:
    """The difference of two shares, ``critical`` standard errors wide.

    A share of 0 or 1 is so in every draw, as if it were certain. Wilson's interval, at the level of
    ``critical``, stands in for what the draws do not show; squares of distances add up (Zou and Donner 2008,
    https://doi.org/10.1002/sim.3095).
    """
    value = mine.value - theirs.value
    if np.isnan(error):
        return Estimate(value, None, None, mine.n, mine.prompts)
    (down, up), (their_down, their_up) = (_unseen(share, critical) for share in (mine, theirs))
    low = value - math.hypot(critical * error, down, their_up)
    high = value + math.hypot(critical * error, up, their_down)
    return Estimate(value, max(-1.0, low), min(1.0, high), mine.n, mine.prompts)


def _unseen(share: Estimate, critical: float) -> tuple[float, float]:
    """How far a share of 0 or 1 may lie below and above what it is in every draw; nothing for others."""
    if 0 < share.value < 1:
        return 0.0, 0.0
    rate = wilson(round(share.value * share.prompts), share.prompts, 2 * norm.cdf(critical) - 1)
    return share.value - rate.low, rate.high - share.value


def _verdict(excess: Estimate | None) -> str:
    if excess is None or excess.low is None:
        return "undecided"
    return frames.verdict(excess.low, excess.high)


def aligned(
    runs: pd.DataFrame, signal: pd.DataFrame, before: int = BEFORE, after: int = AFTER
) -> pd.DataFrame:
    """Mean of a signal at each distance from the onset, in looping runs and in their controls.

    A looping run whose token ``onset + offset`` exists is compared with the mean, at that same token, of the
    runs of its condition that never loop and are still going; it is left out at offsets where there is none.
    Loops that begin at token 0 or 1 are left out: they have no tokens before the onset that could differ.

    Returns
    -------
    One row per offset from -before to after that has a run: ``offset``, ``looping``, ``control``,
    ``difference``, each with ``_low`` and ``_high`` (NaN where there is none), ``n`` looping runs and their
    ``prompts``.
    """
    values = signal.to_numpy(float)
    loops = np.flatnonzero((runs["onset"] > FIRST_COMPRESSED_TOKEN).fillna(False))
    offsets = np.arange(-before, after + 1)
    if not len(loops) or not values.shape[1]:
        return pd.DataFrame()
    at = runs["onset"].to_numpy(float, na_value=np.nan)[loops].astype(int)[:, None] + offsets
    inside = (at >= 0) & (at < values.shape[1])
    at = np.where(inside, at, 0)  # [loops, offsets]
    of_loops = np.where(inside, values[loops[:, None], at], np.nan)
    condition, names = pd.factorize(runs["condition"])
    usable = (~runs["looping"] & ~runs["errored"]).to_numpy()
    controls = [np.flatnonzero((condition == code) & usable) for code in range(len(names))]
    there = [(np.isfinite(values[rows]), np.nan_to_num(values[rows])) for rows in controls]

    def control_means(weights: np.ndarray) -> np.ndarray:
        """Mean of the controls at each looping run's tokens, ``[draws, loops, offsets]``."""
        means = [
            weights[:, rows] @ value / (weights[:, rows] @ is_there)
            for rows, (is_there, value) in zip(controls, there, strict=True)
        ]
        pairs = zip(loops, at, strict=True)
        return np.stack([means[condition[loop]][:, tokens] for loop, tokens in pairs], axis=1)

    def statistic(weights: np.ndarray) -> np.ndarray:
        control = control_means(weights)
        share = weights[:, loops, None] * (paired & np.isfinite(control))
        looping = (share * np.nan_to_num(of_loops)).sum(1) / share.sum(1)
        control = (share * np.nan_to_num(control)).sum(1) / share.sum(1)
        return np.concatenate([looping, control, looping - control], axis=1)

    prompts = runs["prompt"].to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        paired = np.isfinite(of_loops) & np.isfinite(control_means(np.ones((1, len(runs))))[0])
        counts = np.array([len(set(prompts[loops[column]])) for column in paired.T])
        made = intervals(statistic, prompts, counts=np.tile(counts, 3))
    value, low, high = (part.reshape(3, -1) for part in made)
    table = pd.DataFrame({"offset": offsets})
    for name, *columns in zip(("looping", "control", "difference"), value, low, high, strict=True):
        table[name], table[f"{name}_low"], table[f"{name}_high"] = columns
    table = table.assign(n=paired.sum(0), prompts=counts)
    return table[table["n"] > 0].reset_index(drop=True)


def numbers(runs: pd.DataFrame, tokens: pd.DataFrame, first: int | None = None) -> pd.DataFrame:
    """One row per run, one column per number of it; missing where the run has too few tokens for it.

    Largest, mean and smallest value of each of the `SIGNALS` over the run's tokens, or its ``first`` ones;
    slope, the least-squares change per token; the share of confident tokens (top-1 probability above .99);
    and the trivial ones: the share of the cache removed, the run's length in tokens (no more than ``first``).
    """
    part = tokens if first is None else tokens[tokens["step"] < first]
    by_run = part.groupby("run")
    centred = part["step"] - by_run["step"].transform("mean")
    spread = (centred**2).groupby(part["run"]).sum()
    made = {}
    for name in SIGNALS:
        made |= {
            f"{name}, {word}": by_run[name].agg(how)
            for word, how in (("largest", "max"), ("mean", "mean"), ("smallest", "min"))
        }
        made[f"{name}, slope"] = (centred * part[name]).groupby(part["run"]).sum() / spread.where(spread > 0)
    made["confident tokens, share"] = (part["top1_prob"] > CONFIDENT).groupby(part["run"]).mean()
    table = pd.DataFrame(made).reindex(runs["run"]).set_axis(runs.index)
    return table.assign(**{REMOVED: runs["removed"], LENGTH: runs["tokens"].clip(upper=first)}).astype(float)


def separation(runs: pd.DataFrame, of_runs: pd.DataFrame, question: str) -> pd.DataFrame:
    """How well each number of `numbers` tells failed runs from others: AUROC over pairs of runs of the same
    condition, in the long frame with the failure and the number as its ``subject``.

    A number of the whole run has seen the failure: this is description. Below .5, failing runs have the
    smaller values. Runs that an error stopped and runs without the number are left out, and ``n`` is without
    them; the estimate is missing where there is no pair.
    """
    rows = []
    for failure in FAILURES:
        for name, scores in of_runs.items():
            used = ~runs["errored"].to_numpy()
            part, label = runs[used], runs.loc[used, failure].to_numpy(float)
            strata = part["condition"].to_numpy()
            made = auroc_of_pairs(scores[used].to_numpy(), label, part["prompt"].to_numpy(), strata)
            subject = f"{failure}: {name}"
            rows.append(frames.estimate_row(question, subject, "AUROC", made))
    return frames.long_frame(rows)
