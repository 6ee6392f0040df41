"""What an action can do at all, before any alarm: runs are given back their cache where they begin to fail.

    python experiments/011-what-an-action-can-do.py                                                this study
    python experiments/011-what-an-action-can-do.py experiments/014-actions-on-a-capable-model.yaml   another

1. Which finished runs are acted on, and at which of their tokens.
2. What is done there. Acting at the start is a run of its own: restored, it is the uncompressed run.
3. The study: the runs after each action (hours; it goes on where it was killed).
4. What became of each, in one frame, checked against the finished runs.
5. The long frame (`kvhelpers.frames`). ``question`` is an experiment and a part of its runs; ``subject`` is
   an action and where, or two of them. Shares are between 0 and 1, intervals over prompts.
6. The figure.
7. The log's tables; its other words are a person's. Numbers are in ``estimates.csv``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from kvhelpers import frames, log
from kvhelpers.errors import InputError
from kvhelpers.experiment.grid import finished_results
from kvhelpers.format import GAP, p_value, points_of, share
from kvhelpers.frames import save_frames
from kvhelpers.guard.definition import ActionsDefinition, asked_sources, before_name
from kvhelpers.guard.source import Source, onsets
from kvhelpers.guard.study import Row, Study
from kvhelpers.hazard.provenance import study_provenance
from kvhelpers.paths import continuations_dir, figures_dir, find_results, relative
from kvhelpers.plots import COLOURS, STYLE, WIDTH, entries, legend_above, save
from kvhelpers.records import Record, StopReason
from kvhelpers.scoring.score import Ended
from kvhelpers.stats import adjusted, mean, proportion, sign_test

START, ONSET, MATCHED = "start", before_name(0), "matched"
GROUPS = ("failing", "wrong", "right")
WHOLE = ("restore", "relax", "again")  # what is done to a whole cache
ROWS = ("no rows", "wanted rows", "another's rows", "random rows", "oldest rows")  # brought back to it
RUN = ["condition", "prompt_index"]


# 1. Which runs are acted on, and where
class Place(NamedTuple):
    """A run to act on, the onset of its failure, and by the name of the place the tokens that stand there."""

    label: str
    index: int
    group: str
    onset: int | None
    keep: dict[str, int]


def places(source: Source, definition: ActionsDefinition) -> list[Place]:
    """The runs of a source that are acted on, in the order of their prompts: of each condition
    ``definition.runs`` that fail after their first token, as many that fail at it, ``definition.others`` that
    end wrong while the uncompressed run is right, and as many that end right.
    """
    failures = {label: onsets(result) for label, result in source.conditions.items()}
    failing = [place for label in failures for place in failing_runs(label, failures[label], definition)]
    tokens = [keep for place in failing for name, keep in place.keep.items() if name != START]
    needless = {record.prompt_index for record in source.baseline.records if record.correct}
    others = []
    for label, result in source.conditions.items():
        wrong = [
            record
            for record in result.records
            if record.stop_reason.ended and not record.correct and record.prompt_index in needless
        ]
        wrong = [record for record in wrong if record.prompt_index not in failures[label]]
        right = [record for record in result.records if record.correct]
        others += [at_shares(label, record, "wrong", definition) for record in wrong[: definition.others]]
        others += [right_run(label, record, definition, tokens) for record in right[: definition.others]]
    return failing + others


def failing_runs(label: str, failures: dict[int, int], definition: ActionsDefinition) -> Iterator[Place]:
    """Runs that fail, at their onset and before it. Failures at token 0 can be acted on at the start only;
    they take no room from the others.
    """
    late, at_once = (
        [i for i in sorted(failures) if (failures[i] >= 1) == is_late] for is_late in (True, False)
    )
    for index in sorted(late[: definition.runs] + at_once[: definition.runs]):
        onset = failures[index]
        keep = {name: onset - before for name, before in definition.depths.items() if before < onset}
        yield Place(label, index, "failing", onset, {START: 0} | keep)


def right_run(label: str, record: Record, definition: ActionsDefinition, tokens: Sequence[int]) -> Place:
    """A right run, at one of the tokens at which failing runs are acted on; else at shares of its own."""
    fitting = [token for token in tokens if token < record.n_tokens]
    if not fitting:
        return at_shares(label, record, "right", definition)
    draw = np.random.default_rng([definition.seed, record.prompt_index])
    return Place(label, record.prompt_index, "right", None, {START: 0, MATCHED: int(draw.choice(fitting))})


def at_shares(label: str, record: Record, group: str, definition: ActionsDefinition) -> Place:
    shares = {f"{part:.0%} of the run".replace("%", " %"): part for part in definition.shares}
    keep = {name: max(1, int(part * record.n_tokens)) for name, part in shares.items()}
    return Place(label, record.prompt_index, group, None, {START: 0} | keep)


# 2. What is done there
def actions(source: Source, place: Place, definition: ActionsDefinition) -> Iterator[tuple]:
    """Where, what, and the point from which the run goes on, None where that run is finished already.

    restore goes on with the full cache, relax under a milder ratio of the press, again under the press as it
    was: a control, since any change does something to runs that were chosen because they fail. The others
    bring evicted rows back under the press on the prompt alone; *no rows* is their control.
    """
    from kvhelpers.guard.continuations import Point, Rows  # needs torch
    from kvhelpers.presses.restore_rows import OLDEST, OTHER, RANDOM, WANTED

    condition = source.conditions[place.label].condition
    same = {"press": condition.press, "press_kwargs": condition.press_kwargs}
    for where, keep in place.keep.items():
        run = {"condition": place.label, "prompt_index": place.index, "keep": keep}
        milder = Point(**run, **same, ratio=round(definition.relax * condition.ratio, 6))
        anew = Point(**run, **same, ratio=condition.ratio)
        for action, point in zip(WHOLE, (Point(**run), milder, anew), strict=True):
            yield where, action, None if where == START and action != "relax" else point
        if definition.rows and place.group == "failing" and where in definition.rows.at:
            other, n = (place.index + 1) % len(source.baseline.records), definition.rows.count
            chosen = [Rows(count=0, choose=WANTED), Rows(count=n, choose=WANTED)]
            chosen += [Rows(count=n, choose=OTHER, other=other), Rows(count=n, choose=RANDOM)]
            chosen += [Rows(count=n, choose=OLDEST)]
            for action, rows in zip(ROWS, chosen, strict=True):
                yield where, action, anew.model_copy(update={"rows": rows})


# 3. The study
def make(definition: ActionsDefinition, command: str | None, only: Sequence[str] = ()) -> Study:
    """Act on the runs of the definition's sources, or of these only; what is kept is not generated again."""
    from kvhelpers.guard.continuations import continue_runs, key_of  # needs torch

    provenance, runs = study_provenance(command), []
    for source in map(Source, asked_sources(definition, only)):
        wanted = [(at, *one) for at in places(source, definition) for one in actions(source, at, definition)]
        points = [point for *_, point in wanted if point is not None]
        done = continue_runs(source, points, continuations_dir(definition.name))
        for place, where, action, point in wanted:
            if point is None:
                after = finished(source, place, action)
            else:
                went = done[key_of(point)]
                after = {"known": False, "ended": went.stop_reason.ended}
                after |= went.model_dump(mode="json", exclude={"point", "stop_reason"})
            runs.append(about(source, place, where, action) | after)
    return Study(provenance=provenance, definition=definition, runs=runs)


def about(source: Source, place: Place, where: str, action: str) -> Row:
    """Which run was acted on: ``keep`` tokens stood then, ``before`` is how many it had by itself."""
    result = source.conditions[place.label]
    record = result.records[place.index]
    row = {"experiment": source.experiment, "condition": place.label, "press": result.condition.press}
    row |= {"prompt_index": place.index, "prompt_id": record.prompt_id, "group": place.group}
    row |= {"onset": place.onset, "place": where, "keep": place.keep[where], "before": record.n_tokens}
    return row | {"action": action}


def finished(source: Source, place: Place, action: str) -> Row:
    """What became of a run that was acted on at the start: of one that nobody generated anew."""
    result = source.conditions[place.label] if action == "again" else source.baseline
    record = result.records[place.index]
    row = {"known": True, "correct": record.correct, "ended": record.stop_reason.ended}
    row |= {"looping": record.failures.looping, "error": record.error, "tokens": record.n_tokens}
    row |= {"token_ids": [], "text": "", "thinking_chars": 0, "wall_seconds": 0.0}
    kept = record.cache.kept_tokens if record.cache else None
    return row | {"kept_tokens": kept, "held_tokens": record.prompt_tokens}


def faults(study: Study, sources: dict[str, Source]) -> Iterator[str]:
    """What does not hold of the study, beside the runs that it acted on and today's rules."""
    from kvhelpers.experiment.run import judged  # needs torch

    for run in study.runs:
        source = sources[run["experiment"]]
        alone = source.every[run["condition"]]
        record, full = alone.records[run["prompt_index"]], source.baseline.records[run["prompt_index"]]
        named = f"{run['action']} at {run['place']} of {run['condition']}, prompt {run['prompt_id']}"
        if (run["prompt_id"], run["before"]) != (record.prompt_id, record.n_tokens):
            yield f"{named}: it is not the run that was acted on"
        if run["known"]:
            same = full if run["action"] == "restore" else record
            if run["place"] != START or (run["correct"], run["tokens"]) != (same.correct, same.n_tokens):
                yield f"{named}: it is not the finished run that it is said to be"
            continue
        if run["tokens"] != run["keep"] + len(run["token_ids"]):
            yield f"{named}: {run['tokens']} tokens are not {run['keep']} and {len(run['token_ids'])}"
            continue
        reason = StopReason.EOS if run["ended"] else StopReason.MAX_NEW_TOKENS
        ids = [*source.tokens(run["condition"])[run["prompt_index"]][: run["keep"]], *run["token_ids"]]
        left = Ended(run["text"], ids, [len(run["text"])] * len(ids), reason, run["thinking_chars"])
        scored = judged(alone.condition, run["prompt_id"], record.reference, left)
        if run["correct"] != (run["error"] is None and scored.correct):
            yield f"{named}: today's rules do not say that it is {'right' if run['correct'] else 'not right'}"


# 4. What became of each run
def runs_of(study: Study, experiment: str) -> pd.DataFrame:
    """A source's runs after each action, earlier places first. Raises InputError if they are not of the
    source's runs that are here.
    """
    runs = pd.DataFrame(study.runs).rename(columns={"prompt_id": "prompt"})
    runs = runs[runs["experiment"] == experiment]
    here = frames.runs(finished_results(experiment, find_results(experiment))).set_index(RUN)
    here = here[["prompt", "tokens"]].reindex(pd.MultiIndex.from_frame(runs[RUN]))
    if here.to_numpy().tolist() != runs[["prompt", "before"]].to_numpy().tolist():
        raise InputError(f"study {study.definition.name!r} is not of the runs of {experiment!r} here")
    order = {place: number for number, place in enumerate((START, *study.definition.depths))}
    depth = runs["place"].map(lambda place: order.get(place, len(order)))
    return runs.assign(side=runs["action"] + ", " + runs["place"], depth=depth).sort_values(
        "depth", kind="stable"
    )


def parts_of(runs: pd.DataFrame, definition: ActionsDefinition) -> dict[str, pd.DataFrame]:
    """Failing runs by their onset: those that fail so early that acting on them is almost beginning again,
    and those that have every place, on which places can be compared.
    """
    deepest = max(definition.before_onset)
    onset = runs["onset"]
    early = {f"failing, onset to token {deepest}": runs[onset.between(1, deepest)]}
    return early | {f"failing, onset behind token {deepest}": runs[onset > deepest]}


# 5. The long frame
def outcomes(question: str, runs: pd.DataFrame, metrics: dict[str, str]) -> list[dict]:
    """Shares of these runs by what was done where."""
    rows = []
    for subject, part in runs.groupby("side", sort=False):
        for metric, column in metrics.items():
            made = proportion(part[column], part["prompt"])
            rows.append(frames.estimate_row(question, subject, metric, made))
    return rows


def pairs(runs: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """What is set beside what: restoring and relaxing against the press anew at each place; restoring against
    restoring at the start and, before the onset, at it; the wanted rows against none and others. What follows
    from how the runs were chosen is not tested.
    """
    for place in [place for place in runs["place"].unique() if place != START]:
        yield f"again, {place}", f"restore, {place}"
        yield f"again, {place}", f"relax, {place}"
        if runs["group"].iloc[0] != "wrong":
            yield f"restore, {START}", f"restore, {place}"
        if runs["group"].iloc[0] == "failing" and place != ONSET:
            yield f"restore, {ONSET}", f"restore, {place}"
        yield from (
            (f"{other}, {place}", f"wanted rows, {place}") for other in ROWS if other != "wanted rows"
        )


def contrasts(question: str, runs: pd.DataFrame) -> Iterator[list[dict]]:
    """Of each pair, on its common runs: the difference of the shares that end right, second minus first, the
    runs and the prompts that are right on one side only, and the p of the sign test over prompts.
    """
    sides = {side: part.set_index(["prompt", *RUN])["correct"] for side, part in runs.groupby("side")}
    for first, second in pairs(runs):
        if not {first, second} <= set(sides):
            continue
        both = sides[first].to_frame("first").join(sides[second].rename("second"), how="inner")
        if both.empty:
            continue
        change, prompts = both["second"].astype(int) - both["first"], both.index.get_level_values("prompt")
        test, subject = sign_test(change, prompts), f"{second}, against {first}"
        counts = {"only first": (change < 0).sum(), "only second": (change > 0).sum(), "p": test.p}
        counts |= {"prompts worse": test.worse, "prompts better": test.better}
        size = {"n": len(both), "prompts": prompts.nunique()}
        made = [frames.bootstrap_row(question, subject, "difference", mean(change), prompts)]
        yield made + [
            frames.row(question, subject, metric, value, **size) for metric, value in counts.items()
        ]


def with_q(made: list[list[dict]]) -> list[dict]:
    """The rows of a source's contrasts with q, adjusted over all of them, and verdicts: none where runs and
    prompts disagree about the direction.
    """
    tests = [{row["metric"]: row["estimate"] for row in rows} for rows in made]
    for rows, test, q in zip(made, tests, adjusted([test["p"] for test in tests]), strict=True):
        agree = test["difference"] * (test["prompts better"] - test["prompts worse"]) > 0
        said = frames.verdict(rows[0]["low"], rows[0]["high"], q=q)
        rows[0] |= {"q": q, "verdict": said if agree or said == "none seen" else "undecided"}
    return [row for rows in made for row in rows]


def estimates(study: Study) -> pd.DataFrame:
    """Everything that is estimated. Parts of the failing runs were compared after the runs were seen: they
    have a p and neither q nor verdict.
    """
    rows = []
    for source in study.sources:
        name = source.experiment
        runs = runs_of(study, name)
        groups = {group: runs[runs["group"] == group] for group in GROUPS}
        parts = parts_of(groups["failing"], study.definition)
        tested = []
        for part, these in (groups | parts).items():
            question = f"{name}, {part}"
            shares = {"right": "correct", "looping": "looping", "ended": "ended"}
            rows += outcomes(question, these, shares)
            for subject, of_side in these.groupby("side", sort=False):
                size = {"n": len(of_side), "prompts": of_side["prompt"].nunique()}
                rows.append(frames.row(question, subject, "tokens", of_side["tokens"].mean(), **size))
            made = [] if these.empty else list(contrasts(question, these))
            tested += made if part in groups else []
            rows += [] if part in groups else [row for of_pair in made for row in of_pair]
        rows += with_q(tested)
        for label, these in groups["failing"].groupby("condition", sort=False):
            shown = these[these["action"].isin(["restore", "again"])]
            rows += outcomes(f"{name}, failing, {label}", shown, {"right": "correct"})
    return frames.long_frame(rows)


# 6. The figure
TITLES = dict(zip(GROUPS, ("runs that fail", "runs that end wrong", "runs that end right"), strict=True))
LOOKS = dict(zip(WHOLE, ("full cache", "milder ratio", "same press anew"), strict=True))
PALETTE = dict(zip(LOOKS.values(), (COLOURS[0], COLOURS[2], "0.5"), strict=True))


def by_action(long: pd.DataFrame) -> pd.DataFrame:
    """The shares that end right with the place as their subject and the action as their metric."""
    shares = long[long["metric"] == "right"]
    named = shares["subject"].str.split(", ", n=1, expand=True)
    return shares.assign(metric=named[0], subject=named[1])


def figure(study: Study, long: pd.DataFrame) -> plt.Figure:
    """The share that ends right by where it was acted on, of how many runs; a row a source, a column a
    group.
    """
    shares, sources = by_action(long), study.sources
    with plt.rc_context(STYLE):
        made = plt.figure(figsize=(WIDTH, 2.4 * len(sources) + 0.4), layout="constrained")
        grid = made.subplots(len(sources), len(GROUPS), squeeze=False, sharey=True)
        for source, row in zip(sources, grid, strict=True):
            for group, axes in zip(GROUPS, row, strict=True):
                part = shares[shares["question"] == f"{source.experiment}, {group}"]
                part = part[part["metric"].isin(WHOLE)]
                n = part.drop_duplicates("subject").set_index("subject")["n"]
                part = part.assign(
                    place=part["subject"].map(lambda place, n=n: f"{place} ({n[place]})"),
                    action=part["metric"].map(LOOKS),
                )
                ends = part.set_index(["place", "action"])[["low", "high"]]
                drawn = part.loc[part.index.repeat(2)].assign(estimate=ends.to_numpy().ravel())
                look = {"x": "place", "y": "estimate", "hue": "action", "palette": PALETTE, "dodge": 0.36}
                look |= {"linestyle": "none", "ax": axes, "markersize": 4}
                bars = {"errorbar": ("pi", 100), "estimator": "median", "markers": "none", "legend": False}
                sns.pointplot(drawn, **look | bars, err_kws={"linewidth": 1.2})
                sns.pointplot(part, **look, errorbar=None, markers=["o", "s", "D"])
                marks = entries(axes)
                axes.set(title=f"{source.experiment},\n{TITLES[group]}", xlabel="", ylim=(-0.04, 1.04))
                axes.tick_params(axis="x", rotation=30)
                plt.setp(axes.get_xticklabels(), ha="right")
            row[0].set_ylabel("share that ends right")
        legend_above(made, marks)
        plt.close(made)
    return made


# 7. The log's tables
def tables(study: Study, long: pd.DataFrame) -> list[pd.DataFrame]:
    """Shares that end right by group and place; and pairs of actions. Source by source."""
    made, shares = [], by_action(long)
    for name in [source.experiment for source in study.sources]:
        cells = {"n": ("restore", lambda one: one.n)} | {action: (action, share) for action in WHOLE}
        rows = {}
        for group in GROUPS:
            there = shares[shares["question"] == f"{name}, {group}"]["subject"].unique()
            there = there if group == "failing" else there[1:]  # the others' start follows from their choice
            rows |= {f"{group}, {place}": (f"{name}, {group}", place) for place in there}
        made.append(log.table(shares, "Runs, acted on at", rows, cells))
        made.append(log.table(long, "Compared", compared(name, study.definition, long), PAIRS))
    return made


PAIRS = {"n": ("difference", lambda one: one.n), "Points": ("difference", points_of)}
PAIRS |= {"p": ("p", lambda one: p_value(one.value))}
PAIRS |= {"q": ("difference", lambda one: GAP if one.q is None else p_value(one.q))}


def compared(name: str, definition: ActionsDefinition, long: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """The pairs that the log shows, of those that there are: question and subject by what they are called."""
    first = f"onset − {max(definition.before_onset)}"
    early, late = (f"{name}, {part}" for part in parts_of(pd.DataFrame({"onset": [0]}), definition))
    failing, _, right = (f"{name}, {group}" for group in GROUPS)
    restored = f"restore, {ONSET}, against again, {ONSET}"
    rows = {"restore − again, onset": (failing, restored)}
    rows |= {f"the same, {part.split(', ')[-1]}": (part, restored) for part in (early, late)}
    rows["relax − again, onset"] = (failing, f"relax, {ONSET}, against again, {ONSET}")
    rows[f"restore: {first} − onset"] = (failing, f"restore, {first}, against restore, {ONSET}")
    rows["restore: onset − start"] = (failing, f"restore, {ONSET}, against restore, {START}")
    rows |= {
        f"wanted rows − {other}, onset": (failing, f"wanted rows, {ONSET}, against {other}, {ONSET}")
        for other in ("no rows", "random rows")
    }
    rows["right: restore − again"] = (right, f"restore, {MATCHED}, against again, {MATCHED}")
    there = set(zip(long["question"], long["subject"], strict=True))
    return {shown: row for shown, row in rows.items() if row in there}


def write(study: Study) -> Path:
    """Write the study's numbers, figure and tables; return the log's path."""
    name, long = study.definition.name, estimates(study)
    runs = pd.DataFrame(study.runs).drop(columns=["token_ids", "text", "thinking_chars"])
    save_frames({"estimates": long, "runs": runs}, figures_dir(name))
    save(figure(study, long), figures_dir(name), "actions")
    picture = f"![Share of runs that end right after an action](../{relative(figures_dir(name))}/actions.png)"
    parts = [f"# Experiment {name}: what an action can do", study.definition.objective, picture]
    beginning = "\n\n".join([*parts, "## Conclusions", "## Next steps", "## Results\n"])
    return log.write_tables(name, tables(study, long), beginning)


if __name__ == "__main__":
    from kvhelpers.__main__ import main

    sys.exit(main(["guard", *(sys.argv[1:] or [str(Path(__file__).with_suffix(".yaml"))])]))
