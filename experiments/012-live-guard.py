"""What a guard is worth: policies on finished runs, beside the press alone and beside compressing less.

    python experiments/012-live-guard.py                                                    this study
    python experiments/012-live-guard.py experiments/015-live-guard-on-a-capable-model.yaml   another one

1. The guarded runs (hours where they are not stored; it goes on where it was killed).
2. What became of each run, beside the same run under the press alone.
3. The best mixture of the press's own ratios that holds no more: compressing less, or some prompts only.
4. What each policy gains and costs, and what the hazard's choice adds to its alarms dealt out anew.
5. The long frame (`kvhelpers.frames`). ``question`` is where: an experiment, or some of its conditions;
   ``subject`` is a policy, or a ratio of the press. Shares are between 0 and 1, intervals over prompts.
6. The figure.
7. The log's tables; its other words are a person's. Numbers are in ``estimates.csv``.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from kvhelpers import frames, log
from kvhelpers.errors import InputError
from kvhelpers.experiment.grid import finished_results
from kvhelpers.format import percent, points_of, share
from kvhelpers.frames import save_frames
from kvhelpers.guard.definition import QUALITY_LOSS, SAVED, SLOW_DOWN, LiveDefinition
from kvhelpers.guard.ledger import Stretch
from kvhelpers.guard.policies import FULL, PERMUTED, PRESS
from kvhelpers.guard.source import Source, onsets
from kvhelpers.guard.study import Study
from kvhelpers.paths import continuations_dir, figures_dir, find_results, relative
from kvhelpers.plots import STYLE, WIDTH, legend_above, save
from kvhelpers.stats import adjusted, mean, sign_test

HAZARD = "hazard_roll_back"
LIVE = ["n", "same", "acted", "cpu_seconds"]  # of the runs that were guarded while they ran
UNIT = ["condition", "prompt"]  # of a run under a policy, or under another


# 1. The guarded runs
def make(definition: LiveDefinition, command: str | None, only: Sequence[str] = ()) -> Study:
    """Guard the runs of the definition's sources, or of these only; what is kept is not generated again."""
    from kvhelpers.guard.live import make_live_study  # needs torch

    return make_live_study(definition, continuations_dir(definition.name), command, only)


def faults(study: Study, sources: dict[str, Source]) -> Iterator[str]:
    """What does not hold of the study, beside the runs that were guarded."""
    for run in study.runs:
        source, index = sources[run["experiment"]], run["prompt_index"]
        alone, full = source.every[run["condition"]].records[index], source.baseline.records[index]
        named = f"{run['policy']} on {run['condition']}, prompt {run['prompt_id']}"
        if run["prompt_id"] != alone.prompt_id:
            yield f"{named}: it is not the prompt of the run, {alone.prompt_id}"
        same = full if run["policy"] == FULL else alone if run["alarm"] is None else None
        if same is not None and (run["correct"], run["tokens"]) != (same.correct, same.n_tokens):
            yield f"{named}: it is not the finished run that it is said to be"
    for check in study.checks:
        if check["same"] != check["n"]:
            differ = f"{check['n'] - check['same']} of {check['n']} live runs differ"
            yield f"{check['policy']} on {check['condition']}: {differ}"


# 2. What became of each run
def runs_of(study: Study, experiment: str) -> pd.DataFrame:
    """A source's guarded runs. Raises InputError if they are not of the source's runs that are here."""
    runs = pd.DataFrame(run for run in study.runs if run["experiment"] == experiment)
    runs = runs.rename(columns={"prompt_id": "prompt"})
    here = frames.runs(finished_results(experiment, find_results(experiment))).set_index(UNIT)
    for policy, right in ((PRESS, here["correct"]), (FULL, here["baseline_correct"])):
        part = runs[runs["policy"] == policy].set_index(UNIT)["correct"]
        if not part.equals(right.reindex(part.index).astype(bool)):
            raise InputError(f"study {study.definition.name!r} is not of the runs of {experiment!r} here")
    return runs.join(here["correct"].rename("alone"), on=UNIT)


# 3. Compressing less
def curve_of(source: Source, n_prompts: int) -> pd.DataFrame:
    """The runs of each guarded condition's press at all of its ratios, the full cache among them: what each
    held over time, and whether it ended right.
    """
    rows = []
    for label, guarded in source.conditions.items():
        for result in source.every.values():
            asked = guarded.condition.model_copy(update={"ratio": result.condition.ratio})
            if result is not source.baseline and result.condition != asked:
                continue
            for record in result.records[:n_prompts]:
                kept = record.cache.kept_tokens if record.cache else record.prompt_tokens
                held = Stretch(record.prompt_tokens, kept, record.n_tokens).entry_steps
                row = {"condition": label, "ratio": result.condition.ratio, "prompt_id": record.prompt_id}
                rows.append(row | {"correct": record.correct, "entry_steps": held})
    return pd.DataFrame(rows)


def best_mixture(held: np.ndarray, right: np.ndarray, budget: np.ndarray) -> np.ndarray:
    """The highest rates ``[draws]`` of mixtures of two ratios that hold no more than ``budget [draws]``;
    ``held`` and ``right`` are ``[draws, ratios]``. Where each ratio holds more, that of the cheapest.
    """
    order = held.argsort(1)
    held, right = (np.take_along_axis(one, order, 1).T for one in (held, right))
    budget = np.maximum(budget, held[0])
    best = np.where(held <= budget, right, -np.inf).max(0)
    for one, other in itertools.combinations(range(len(held)), 2):
        between = (held[one] <= budget) & (budget < held[other])
        step = np.where(between, held[other] - held[one], 1)
        mixed = right[one] + (right[other] - right[one]) * (budget - held[one]) / step
        best = np.where(between, np.maximum(best, mixed), best)
    return best


def above_mixture(right: pd.Series, held: pd.Series, curve: pd.DataFrame):
    """The statistic: a policy's accuracy minus the best mixture's at its budget, a mean over conditions."""
    parts = []
    for label, points in curve.astype({"correct": float}).groupby("condition"):
        own = right.index.get_level_values("condition") == label
        by_ratio = points.pivot(index="prompt_id", columns="ratio", values=["entry_steps", "correct"])
        parts.append((own, right[own], held[own], by_ratio["entry_steps"], by_ratio["correct"]))

    def statistic(weights: np.ndarray) -> np.ndarray:
        above = []
        for own, *columns in parts:
            shares = weights[:, own] / weights[:, own].sum(1, keepdims=True)
            its_right, its_held, held_by_ratio, right_by_ratio = (shares @ one.to_numpy() for one in columns)
            above.append(its_right - best_mixture(held_by_ratio, right_by_ratio, its_held))
        return np.mean(above, axis=0)

    return statistic


# 4. What each policy gains and costs
def of_policies(where: str, runs: pd.DataFrame, curve: pd.DataFrame, names: tuple[str, ...]) -> list[dict]:
    """Rows of the policies on these runs; of one that draws lots all are means over its draws."""
    right, held = (
        runs.astype({value: float}).pivot_table(index=UNIT, columns="policy", values=value)
        for value in ("correct", "entry_steps")
    )
    prompts = right.index.get_level_values("prompt")
    above = {name: above_mixture(right[name], held[name], curve) for name in names}
    rows = []
    for name in names:
        statistics = {
            "accuracy": mean(right[name]),
            "loss": mean(right[FULL] - right[name]),
            "saved": lambda weights, name=name: 1 - (weights @ held[name]) / (weights @ held[FULL]),
            "above press": mean(right[name] - right[PRESS]),
            "above mixture": above[name],
        }
        if name == HAZARD and PERMUTED in names:
            statistics["above permuted"] = lambda weights: above[HAZARD](weights) - above[PERMUTED](weights)
        rows += [frames.bootstrap_row(where, name, metric, of, prompts) for metric, of in statistics.items()]
    acted, anew = runs["alarm"].notna(), runs["keep"] == 0
    rescued, harmed = runs["correct"] & ~runs["alone"], ~runs["correct"] & runs["alone"]
    counts = {"right": runs["correct"], "rescued": rescued, "harmed": harmed, "errors": runs["error"].notna()}
    counts |= {"alarms": acted, "no token stays": anew, "rescued, no token stays": anew & rescued}
    counts |= {"right alone": runs["alone"], "right alone, acted on": acted & runs["alone"]}
    costs = {"peak, bytes": runs["peak"] * runs["entry_bytes"], "taken back": runs["discarded"]}
    draws = runs.groupby("policy")["draw"].nunique()
    single = pd.DataFrame(counts).groupby(runs["policy"]).sum().div(draws, axis=0).assign(draws=draws)
    single = single.join(pd.DataFrame(costs | {"fed": runs["fed"]}).groupby(runs["policy"]).mean())
    single["fed"], single["acted on"] = single["fed"] / single["fed"][FULL], single["alarms"] / len(right)
    if {HAZARD, PERMUTED} <= set(names):
        single.loc[HAZARD, "right, dealt anew"] = single["right"][PERMUTED]
    for name in draws[draws == 1].index:
        test = sign_test((right[name] - right[PRESS]).astype(int), prompts)
        single.loc[name, ["rescued prompts", "harmed prompts", "p"]] = test.better, test.worse, test.p
    size = {"n": len(right), "prompts": prompts.nunique()}
    return rows + [frames.row(where, *key, value, **size) for key, value in single.stack().items()]


def of_time(where: str, checks: pd.DataFrame, names: tuple[str, ...]) -> list[dict]:
    """Rows of prompts guarded while they ran: how many had the composed tokens, how much longer they took."""
    sums = checks.groupby("policy")[LIVE].sum().reindex(names)
    sums["slow-down"] = sums["cpu_seconds"] / sums["cpu_seconds"][FULL] - 1
    sums = sums.rename(columns={"same": "live, the same", "acted": "live, acted on"}).astype({"n": "Int64"})
    metrics = ["live, the same", "live, acted on", "slow-down"]
    return [frames.row(where, name, m, sums[m][name], n=sums["n"][name]) for name in names for m in metrics]


def of_losses(where: str, runs: pd.DataFrame, source: Source) -> list[dict]:
    """Rows of the runs that only the full cache makes right: how many of them loop or overrun under the
    press, and how many others do not end.
    """
    failing = {label: onsets(result) for label, result in source.conditions.items()}
    press, full = (runs[runs["policy"] == name].set_index(UNIT) for name in (PRESS, FULL))
    lost = press[full["correct"].reindex(press.index) & ~press["correct"]]
    fails = np.array([run.prompt_index in failing[run.Index[0]] for run in lost.itertuples()], dtype=bool)
    counts = {"lost": len(lost), "lost, failing": fails.sum()}
    counts["lost, unended"] = (~fails & ~lost["ended"]).sum()
    return [frames.row(where, PRESS, metric, count, n=len(press)) for metric, count in counts.items()]


def of_ratios(where: str, curve: pd.DataFrame) -> list[dict]:
    """Rows of a condition's press at each of its ratios, 0 being the full cache."""
    means = curve.rename(columns={"correct": "accuracy"}).groupby("ratio")[["accuracy", "entry_steps"]].mean()
    held, n = means.pop("entry_steps"), curve["prompt_id"].nunique()
    means["saved"] = 1 - held / held[0]
    return [frames.row(where, f"ratio {r:g}", m, v, n=n, prompts=n) for (r, m), v in means.stack().items()]


# 5. The long frame
CONTRACT = {
    "loss": lambda row: row["high"] <= QUALITY_LOSS,
    "saved": lambda row: row["low"] > SAVED,
    "slow-down": lambda row: row["estimate"] <= SLOW_DOWN,
}


def estimates(study: Study) -> pd.DataFrame:
    """Everything that is estimated; the verdicts of loss, saved and slow-down are the contract's clauses."""
    rows, names = [], study.definition.policies
    checks = pd.DataFrame(study.checks, columns=["experiment", "policy", *LIVE])
    for source in map(Source, study.sources):
        where, runs = source.experiment, runs_of(study, source.experiment)
        curve = curve_of(source, study.definition.n_prompts)
        free = runs[(runs["policy"] == HAZARD) & runs["alarm"].isna()]["condition"].unique()
        parts = {where: [*source.conditions]} | {f"{where}, {label}": [label] for label in source.conditions}
        parts |= {f"{where}, where it chooses": free} if 0 < len(free) < len(source.conditions) else {}
        for place, labels in parts.items():
            of_part = curve[curve["condition"].isin(labels)]
            rows += of_policies(place, runs[runs["condition"].isin(labels)], of_part, names)
            rows += of_ratios(place, of_part) if len(labels) == 1 else []
        rows += of_losses(where, runs, source)
        rows += of_time(where, checks[checks["experiment"] == where], names)
    for row in rows:
        if (keeps := CONTRACT.get(row["metric"])) is not None:
            row["verdict"] = "not measured" if np.isnan(row["estimate"]) else "pass" if keeps(row) else "fail"
        elif row["metric"].startswith("above"):
            row["verdict"] = frames.verdict(row["low"], row["high"])
    said = {(row["question"], row["subject"], row["metric"]): row["verdict"] for row in rows}
    for where, name in itertools.product([source.experiment for source in study.sources], names):
        clauses = {said[where, name, metric] for metric in CONTRACT}
        whole = next(verdict for verdict in ("fail", "not measured", "pass") if verdict in clauses)
        rows.append(frames.row(where, name, "contract", np.nan, verdict=whole))
    long = frames.long_frame(rows)
    for _, tests in long[long["metric"] == "p"].groupby("question"):
        long.loc[tests.index, "q"] = adjusted(tests["estimate"])
    return long


# 6. The figure
def frontier(study: Study, long: pd.DataFrame) -> plt.Figure:
    """Accuracy against entries × steps relative to the full cache, a panel a condition; grey: the press's own
    ratios, and the best mixtures of these that hold no more.
    """
    places = [f"{source.experiment}, {label}" for source in study.sources for label in source.conditions]
    wide = long[long["question"].isin(places)].pivot(index=["question", "subject"], columns="metric")
    spots = wide["estimate"].assign(held=1 - wide["estimate"]["saved"])
    names = list(study.definition.policies)
    shown = spots.loc[(slice(None), names), :].reset_index()
    look = {"hue": "subject", "style": "subject", "hue_order": names, "style_order": names, "s": 36}
    look |= {"col": "question", "col_order": places, "col_wrap": 3}
    with plt.rc_context(STYLE):
        colours = sns.color_palette("colorblind", len(names))
        grid = sns.relplot(shown, x="held", y="accuracy", palette=colours, **look)
        for place, axes in grid.axes_dict.items():
            own = spots.loc[place].filter(like="ratio ", axis=0)
            budgets = np.linspace(own["held"].min(), own["held"].max(), 400)
            points = (np.tile(own[name], (len(budgets), 1)) for name in ("held", "accuracy"))
            (line,) = axes.plot(budgets, best_mixture(*points, budgets), color="0.7", linewidth=1, zorder=0)
            axes.plot(own["held"], own["accuracy"], ".", color="0.6", zorder=0)
            mid, low, high = (wide.loc[place].loc[names, part] for part in ("estimate", "low", "high"))
            axes.errorbar(
                1 - mid["saved"],
                mid["accuracy"],
                xerr=[(high - mid)["saved"].clip(lower=0), (mid - low)["saved"].clip(lower=0)],
                yerr=[(mid - low)["accuracy"].clip(lower=0), (high - mid)["accuracy"].clip(lower=0)],
                **{"fmt": "none", "ecolor": "0.5", "elinewidth": 0.7, "zorder": 1},
            )
            axes.set_title(place.split(", ", 1)[1])
        grid.set_axis_labels("entries × steps, relative", "share that ends right")
        marks = dict(zip(names, grid.legend.legend_handles, strict=True))
        grid.legend.remove()
        grid.figure.set(layout_engine="constrained", size_inches=(WIDTH, 2.0 + 2.8 * len(study.sources)))
        legend_above(grid.figure, marks | {"the press's own ratios": line})
        plt.close(grid.figure)
    return grid.figure


# 7. The log's tables
LEFT_OUT = ("stop", "prune", "force_answer")  # of the log's table, which has a dozen rows
GAINS = {"Acted on": ("acted on", lambda one: percent(one.value)), "Right": ("accuracy", share)}
GAINS |= {"Saved": ("saved", share), "Above mixture": ("above mixture", points_of)}
GAINS |= {"Rescued": ("rescued", "{:.4g}"), "Harmed": ("harmed", "{:.4g}")}
CHOICE = {"n": ("right", lambda one: one.n), "Alarms": ("alarms", "{:.0f}")}
CHOICE |= {"No token stays": ("no token stays", "{:.0f}"), "Right": ("right", "{:.0f}")}
CHOICE |= {"Right, dealt anew": ("right, dealt anew", "{:.1f}"), "Points": ("above permuted", points_of)}


def tables(study: Study, long: pd.DataFrame) -> list[pd.DataFrame]:
    """What policies gain, and the hazard's choice by condition; source by source."""
    made, names = [], study.definition.policies
    for source in study.sources:
        where = source.experiment
        shown = {name: (where, name) for name in names if name not in LEFT_OUT}
        made.append(log.table(long, "Policy", shown, GAINS))
        if {HAZARD, PERMUTED} <= set(names):
            places = {label: (f"{where}, {label}", HAZARD) for label in source.conditions}
            made.append(log.table(long, "Condition", places, CHOICE))
    return made


def write(study: Study) -> Path:
    """Write the study's numbers, figure and tables; return the log's path."""
    name, long = study.definition.name, estimates(study)
    raw = {"runs": pd.DataFrame(study.runs), "live": pd.DataFrame(study.checks)}
    save_frames({"estimates": long, **raw}, figures_dir(name))
    save(frontier(study, long), figures_dir(name), "frontier")
    picture = f"![Accuracy against entries × steps](../{relative(figures_dir(name))}/frontier.png)"
    parts = [f"# Experiment {name}: a guard that acts", study.definition.objective, picture, "## Conclusions"]
    beginning = "\n\n".join([*parts, "## Next steps", study.definition.next_steps, "## Results\n"])
    return log.write_tables(name, tables(study, long), beginning)


if __name__ == "__main__":
    from kvhelpers.__main__ import main

    sys.exit(main(["guard", *(sys.argv[1:] or [str(Path(__file__).with_suffix(".yaml"))])]))
