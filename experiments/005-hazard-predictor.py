"""Can failure be seen coming, token by token?

    python experiments/005-hazard-predictor.py                             this study, in about two hours
    python experiments/005-hazard-predictor.py my-study my-experiment      the same on other runs

1. The runs: all tokens of finished runs, with their features.
2. What the signals add to a clock, which knows the condition and the token's number.
3. Single tokens: the logistic hazard beside others and beside baselines that know less; other horizons;
   presses and tasks not seen; families of features left out; outcomes shuffled.
4. Whole runs: failures announced at a rate of false alarms.
5. Whether a run ends right.
6. A recurrent network, an oracle, other definitions of failure: 005-scrutiny.py.
7. The long frame (`kvhelpers.frames`). ``question`` is one of these, ``subject`` who predicts or what
   differs. ``within`` is the AUROC over pairs of tokens of the same condition, number and fold,
   ``all pairs`` over all. A part that is done is kept below data/results: a study that was killed goes on.
8. The figure, and the log's tables; its other words are a person's.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from tqdm import tqdm

from kvhelpers import frames, log
from kvhelpers.errors import InputError
from kvhelpers.experiment.grid import finished_results
from kvhelpers.experiment.results import ConditionResult
from kvhelpers.format import estimate, share
from kvhelpers.frames import run_signals, save_frames
from kvhelpers.hazard.baselines import Clock, baselines
from kvhelpers.hazard.evaluation import Evaluation, shuffle_outcomes
from kvhelpers.hazard.events import Definition, Event, event_by
from kvhelpers.hazard.features import FAMILIES, MAIN, family_names
from kvhelpers.hazard.model import fit
from kvhelpers.hazard.predictors import BoostedTrees, LogisticHazard
from kvhelpers.hazard.risk_set import RiskSet, build
from kvhelpers.hazard.run_alarms import INNER, RATES, alarm_tokens, caught_difference, judge_alarms
from kvhelpers.hazard.splits import press_splits, prompt_splits, scores_of, task_splits, with_share
from kvhelpers.paths import figures_dir, find_results, model_path, relative, results_dir, write_atomic
from kvhelpers.plots import STYLE, WIDTH, save
from kvhelpers.presses.registry import NONE
from kvhelpers.stats import auroc_difference

NAME = Path(__file__).stem
SCRUTINY = runpy.run_path(str(Path(__file__).with_name("005-scrutiny.py")))
SOURCES = ["002-compression-sweep", "006-capable-model", "007-question-position"]
LATER = {"006-capable-model": ("expected_attention 0.5", "tova 0.5", "observed_attention 0.75")}  # were run
HORIZON, FOLDS, NAMES = 10, 5, family_names(*MAIN)
HAZARD, TREES, BY_CONDITION = "logistic hazard", "boosted trees", ("failure rate", "share removed × press")
Rows, verdict_row = Iterator[dict], SCRUTINY["verdict_row"]


# 1. The runs
@dataclass(frozen=True)
class Data:
    """All tokens of all runs, at risk or not (``whole``); of each run its record, token ids, characters of
    the text up to each token's end, entropies, and the limit on new tokens.
    """

    whole: RiskSet
    runs: list[tuple]
    results: Sequence[ConditionResult]
    folds: int = FOLDS

    @cached_property
    def risk(self) -> RiskSet:
        """The tokens at risk."""
        return self.whole.part(self.whole.before_event)

    def judged(self, horizon: int | None = HORIZON) -> Evaluation:
        return Evaluation(self.risk, horizon, self.folds)

    def by(self, definition: Definition) -> RiskSet:
        """All tokens, with the events of another definition of failure."""
        events = [event_by(definition, record, ids, ends, limit) for record, ids, ends, _, limit in self.runs]
        found = {"event": [event for event, _ in events], "time": [time for _, time in events]}
        found["failed"] = [event.is_failure for event, _ in events]
        return replace(self.whole, runs=self.whole.runs.assign(**found))


def read(experiments: Sequence[str], folds: int = FOLDS, n_prompts: int | None = None) -> Data:
    """The runs of some experiments, without conditions that were run later or are not valid."""
    results = [
        result
        for name in experiments
        for result in finished_results(name, find_results(name))
        if not result.is_invalid and result.label not in LATER.get(name, ())
    ]
    whole, runs = build(results, n_prompts=n_prompts, whole=True), []
    for result in results:
        for record, tokens in run_signals(result, ["token_id", "char_end", "entropy"], n_prompts):
            ends, entropy = (tokens[name].to_numpy() for name in ("char_end", "entropy"))
            limit = result.condition.max_new_tokens
            runs.append((record, tokens["token_id"].tolist(), ends, entropy, limit))
    return Data(whole, runs, results, folds)


def how_runs_end(data: Data) -> Rows:
    """Counts by task and press; failures that begin at token 0 or 1 have no token at risk."""
    runs, question = data.risk.runs, "how runs end"
    immediate = runs["failed"] & (np.bincount(data.risk.run, minlength=len(runs)) == 0)
    groups = {"all": runs}
    groups |= {", ".join(key): part for key, part in runs.groupby(["task", "press"], sort=False)}
    for subject, part in groups.items():
        counts = {"runs": len(part), "prompts": part["prompt"].nunique(), "failures": part["failed"].sum()}
        counts |= {str(event): (part["event"] == event).sum() for event in Event}
        counts["no token at risk"] = immediate[part.index].sum()
        yield from (frames.row(question, subject, *pair, n=len(part)) for pair in counts.items())
    onsets = runs["time"][runs["failed"]]
    rest = {f"onset, quartile {number}": onsets.quantile(number / 4) for number in (1, 2, 3)}
    rest |= {"tokens at risk": len(data.risk.run), "positive": np.nansum(data.risk.label(HORIZON))}
    yield from (frames.row(question, "all", *pair) for pair in rest.items())


# 2. What the signals add to a clock
def beyond_a_clock(data: Data) -> Rows:
    """The clock alone, and with the hazard's score: both made probabilities by a logistic regression on
    scores of other prompts. Gains in log-loss and Brier score are shares of the clock's.
    """
    risk, label, question = data.risk, data.risk.label(HORIZON), "beyond a clock"
    made = {"clock": ["clock"], "clock and hazard": ["clock", HAZARD]}
    scores = {name: np.full(len(label), np.nan) for name in made}
    for split in tqdm(data.judged().splits, desc=question, leave=False):
        train, test = split.train[risk.run] & ~np.isnan(label), split.test[risk.run]
        inner = min(INNER, risk.runs["prompt"][split.train].nunique())
        odds = {}
        for name, predictor in (("clock", Clock(HORIZON)), (HAZARD, LogisticHazard(HORIZON, NAMES))):
            seen = scores_of(risk, predictor, prompt_splits(risk.runs, inner, split.train))
            seen[test] = predictor.fit(risk, split.train[risk.run]).score(risk.part(test))
            odds[name] = logit(seen.clip(1e-6, 1 - 1e-6))
        for name, parts in made.items():
            inputs = np.stack([odds[part] for part in parts], axis=1)
            stacked = LogisticRegression(C=100).fit(inputs[train], label[train])
            scores[name][test] = stacked.predict_proba(inputs[test])[:, 1]
    for name, values in scores.items():
        yield from data.judged().rows(question, name, values)
    known = ~np.isnan(label)
    codes, prompts = pd.factorize(risk.prompts[known])
    truth, both = label[known] == 1, [scores[name][known] for name in made]
    losses = {"log-loss": [-np.log(np.where(truth, one, 1 - one)) for one in both]}
    losses["Brier score"] = [(one - truth) ** 2 for one in both]
    for metric, parts in losses.items():
        clock, hazard = (np.bincount(codes, part) for part in parts)

        def gain(weights: np.ndarray, clock=clock, hazard=hazard) -> np.ndarray:
            return 1 - (weights @ hazard) / (weights @ clock)

        row = frames.bootstrap_row(question, "gain", metric, gain, list(prompts))
        yield row | {"n": len(truth), "verdict": frames.verdict(row["low"], row["high"])}


# 3. Single tokens
def single_tokens(data: Data) -> Rows:
    """The hazard, trees, the average of both, and the baselines; and how far the hazard is above each."""
    judged, question = data.judged(), "single tokens"
    every = {HAZARD: LogisticHazard(HORIZON, NAMES), TREES: BoostedTrees(HORIZON, NAMES)}
    beside, scores = baselines(data.risk, HORIZON), {}
    for name, predictor in tqdm((every | beside).items(), desc=question, leave=False):
        scores[name] = judged.scores(predictor)
    with np.errstate(divide="ignore"):
        scores["average of both"] = expit((logit(scores[HAZARD]) + logit(scores[TREES])) / 2)
    for name, values in scores.items():
        yield from judged.rows(question, name, values)
        pairs = {"within": judged.strata} if name in beside else {}
        pairs |= {"all pairs": np.zeros(len(values))} if name in BY_CONDITION else {}
        for metric, strata in pairs.items():
            above = auroc_difference(scores[HAZARD], values, judged.label, data.risk.prompts, strata)
            yield verdict_row(question, name, f"hazard above, {metric}", above)


def horizons(data: Data) -> Rows:
    """The hazard, other numbers of tokens ahead."""
    for horizon in (1, 5, HORIZON, 32, 50):
        judged = data.judged(horizon)
        yield from judged.rows("horizon", str(horizon), judged.scores(LogisticHazard(horizon, NAMES)))


def elsewhere(data: Data) -> Rows:
    """On presses and tasks not seen, nor their prompts; on parts of the runs, all seen."""
    judged, risk, hazard = data.judged(), data.risk, LogisticHazard(HORIZON, NAMES)
    press, task = (risk.runs[name].to_numpy()[risk.run] for name in ("press", "task"))
    seen, compressed, tasks = judged.scores(hazard), press != NONE, sorted(set(task))
    no_press = scores_of(risk, hazard, press_splits(risk.runs, data.folds))
    no_task = scores_of(risk, hazard, task_splits(risk.runs, data.folds))
    parts = {"presses not seen": (no_press, compressed)}
    parts |= {f"{one} not seen": (no_press, press == one) for one in sorted(set(press[compressed]))}
    if len(tasks) > 1:
        parts |= {f"{one} not seen": (no_task, task == one) for one in tasks}
        parts |= {f"{one}, all seen": (seen, task == one) for one in tasks}
    parts["without censored runs"] = (seen, ~risk.has_event(Event.CENSORED)[risk.run])
    for subject, (scores, where) in parts.items():
        yield from judged.rows("elsewhere", subject, scores, where)


def features(data: Data) -> Rows:
    """The hazard with other features, with fewer training prompts, with outcomes shuffled in conditions."""
    judged, risk = data.judged(), data.risk
    press = [name for name in risk.names if name.startswith("press_")]
    given = {f"without {one}": family_names(*(other for other in MAIN if other != one)) for one in MAIN}
    given |= {f"{one} alone": tuple(FAMILIES[one]) for one in MAIN}
    given |= {"with position": (*NAMES, "position"), "with share removed": (*NAMES, "removed")}
    given["with share removed and press"] = (*NAMES, "removed", *press)
    for subject, names in tqdm(given.items(), desc="features", leave=False):
        yield from judged.rows("features", subject, judged.scores(LogisticHazard(HORIZON, names)))
    for part in (0.25, 0.5, 0.75):
        splits = [with_share(split, risk.runs, part) for split in judged.splits]
        yield from judged.rows(
            "training prompts", f"{part:.0%}", scores_of(risk, LogisticHazard(HORIZON, NAMES), splits)
        )
    for seed in range(6):
        shuffled = Evaluation(shuffle_outcomes(risk, seed), HORIZON, data.folds)
        scores = shuffled.scores(LogisticHazard(HORIZON, NAMES))
        yield from shuffled.rows("shuffled outcomes", str(seed), scores)


# 4. Whole runs
def alarms(data: Data) -> Rows:
    """What is announced at each wanted rate of false alarms, and how much more the hazard announces."""
    every, at = {HAZARD: LogisticHazard(HORIZON, NAMES)} | baselines(data.risk, HORIZON), {}
    for name, predictor in tqdm(every.items(), desc="alarms", leave=False):
        at[name] = alarm_tokens(data.risk, predictor, data.folds, RATES)
        for place, one in enumerate(judge_alarms(data.risk, RATES, at[name])):
            question = f"alarms, {one.wanted:.0%} false"
            found = {"false alarms": one.false_alarms, "wrong ends": one.wrong_ends, "announced": one.caught}
            yield from (frames.estimate_row(question, name, *pair) for pair in found.items())
            for number in (1, 2, 3) if one.lead else ():
                lead = np.percentile(one.lead, 25 * number)
                yield frames.row(question, name, f"lead, quartile {number}", lead, n=len(one.lead))
            more = caught_difference(data.risk, at[HAZARD][place], at[name][place])
            yield verdict_row(question, name, "hazard announces more", more)


# 5. Whether a run ends right
def right_ends(data: Data) -> Rows:
    """Whether the run does anything but end by itself with the right answer, told at each of its tokens."""
    judged, risk = data.judged(None), data.risk
    for name, predictor in ({HAZARD: LogisticHazard(None, NAMES)} | baselines(risk, None)).items():
        scores = judged.scores(predictor)
        yield from judged.rows("not right", name, scores)
        if name == HAZARD:
            ended = risk.has_event(Event.END)[risk.run]
            yield from judged.rows("not right", f"{HAZARD}, among runs that end", scores, ended)


# 7. The long frame
PARTS: dict[str, Callable[[Data], Rows]] = {
    part.__name__: part
    for part in (
        how_runs_end,
        beyond_a_clock,
        single_tokens,
        alarms,
        horizons,
        right_ends,
        elsewhere,
        features,
    )
}
PARTS |= SCRUTINY["PARTS"]


def estimates(data: Data, folder: Path, parts: Sequence[str] = tuple(PARTS)) -> pd.DataFrame:
    """Everything that is estimated; a part that is done is kept in the folder, under the data's hash."""
    mark, rows = f"{data.risk.hash()[:12]}-{data.folds}", []
    for name in tqdm(parts, unit="part"):
        path = folder / f"{name}-{mark}.csv"
        if not path.is_file():
            made = frames.long_frame(list(PARTS[name](data)))
            write_atomic(path, lambda temporary, made=made: made.to_csv(temporary, index=False))
        rows += pd.read_csv(path, keep_default_na=False, na_values="", dtype={"subject": str}).to_dict(
            "records"
        )
    return frames.long_frame(rows)


# 8. The figure, and the log's tables
def figure(long: pd.DataFrame) -> plt.Figure:
    """AUROC by who predicts, and as definitions change to ours: over pairs within strata, and over all."""
    metrics = {"within": "same condition and token", "all pairs": "all pairs (below: of a fold)"}
    for metric, named in {"within": "within", "pairs of a fold": "all pairs"}.items():
        metrics[f"{metric}, horizon {HORIZON}"] = metrics[named]
    shown = long[long["question"].isin(["single tokens", "definitions"]) & long["metric"].isin(metrics)]
    shown = shown.assign(pairs=shown["metric"].map(metrics)).dropna(subset=["low"])

    def bars(data: pd.DataFrame, color: object, label: str) -> None:
        ends = [data["estimate"] - data["low"], data["high"] - data["estimate"]]
        look = {"fmt": "o", "color": color, "markersize": 4, "linewidth": 1, "label": label}
        plt.gca().errorbar(
            data["estimate"], data["subject"], xerr=[end.clip(lower=0) for end in ends], **look
        )

    with plt.rc_context(STYLE):
        look = {"row": "question", "hue": "pairs", "sharey": False, "palette": "colorblind"}
        heights = shown.groupby("question", sort=False)["subject"].nunique().tolist()
        grid = sns.FacetGrid(shown, gridspec_kws={"height_ratios": heights}, **look)
        grid.map_dataframe(bars).set_titles("{row_name}").set_axis_labels(
            f"AUROC, {HORIZON} tokens ahead", ""
        )
        for axes in grid.axes.flat:
            axes.axvline(0.5, color="0.6", linewidth=0.8, zorder=0)
            axes.invert_yaxis()
        marks = grid.axes.flat[0].get_legend_handles_labels()
        grid.figure.set(layout_engine="constrained", size_inches=(WIDTH, 5.5))
        grid.figure.legend(*marks, loc="outside upper center", ncols=2)
        plt.close(grid.figure)
    return grid.figure


def tables(long: pd.DataFrame) -> list[pd.DataFrame]:
    """Who predicts, on single tokens and whole runs; the hazard by horizon; the definitions."""
    names = long[long["question"] == "single tokens"]["subject"].unique()
    names = [name for name in names if name not in ("share removed", "CUSUM of entropy", "average of both")]
    columns = {"AUROC, within": ("within", estimate), "AUROC, all pairs": ("all pairs", estimate)}
    predictors = log.table(long, "Predictor", {name: ("single tokens", name) for name in names}, columns)
    announced = {"Failures announced": ("announced", share)}
    of_runs = log.table(
        long, "Predictor", {name: (f"alarms, {RATES[-1]:.0%} false", name) for name in names}, announced
    )
    changes = long[long["question"] == "definitions"]["subject"].unique()
    steps = {"AUROC, pairs of a fold": (f"pairs of a fold, horizon {HORIZON}", estimate)}
    steps |= {"AUROC, same condition and token": (f"within, horizon {HORIZON}", estimate)}
    made = [predictors.merge(of_runs, on="Predictor")]
    return [*made, log.table(long, "Definitions", {name: ("definitions", name) for name in changes}, steps)]


def write_log(name: str, long: pd.DataFrame | None = None) -> Path:
    """Write figure and log's tables, of the numbers that are there or of new ones; return the log's path."""
    if long is None:
        long = frames.read_long(name)
    else:
        save_frames({"estimates": long}, figures_dir(name))
    save(figure(long), figures_dir(name), "auroc")
    picture = f"![AUROC by who predicts, and by definition](../{relative(figures_dir(name))}/auroc.png)"
    parts = [f"# Experiment {name}: can failure be seen coming?", "## Conclusions", picture, "## Results\n"]
    return log.write_tables(name, tables(long), "\n\n".join(parts))


if __name__ == "__main__":
    name, *experiments = sys.argv[1:] or [NAME, *SOURCES]
    try:
        if not experiments:
            raise InputError(f"study {name!r} has no experiment to read; name one behind it")
        data = read(experiments)
        fit(data.risk, HORIZON, NAMES).save(model_path(name))
        print("log:", relative(write_log(name, estimates(data, results_dir(name) / "parts"))))
    except InputError as error:
        sys.exit(f"error: {error}")
