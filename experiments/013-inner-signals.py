"""Does a look inside the model tell more of a coming failure than the run's outside does?

    python experiments/013-inner-signals.py                                     this study
    python experiments/013-inner-signals.py my-study 006-capable-model          the same on other runs
    python experiments/013-inner-signals.py my-study 006-capable-model "random 0.875" "tova 0.875"

1. The replays: each compressed run's tokens fed again (20 s a run; it goes on where it was killed).
2. Families of features from a replay, none of which knows a later token.
3. Scores of prompts not seen, with each family added to the outside (the features of 005).
4. The long frame (`kvhelpers.frames`). ``question`` is an experiment and what is asked of a token: does a
   failure begin within 10 tokens, or will the run end by itself with the right answer? ``subject`` is a
   family. ``within`` is the AUROC over pairs of tokens of the same condition, number and fold, ``gain``
   what it is above the outside's, ``runs`` the AUROC over whole runs of a condition; each by predictor, or
   with the logistic hazard on presses not seen.
5. The figure.
6. The log's table; its other words are a person's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from sklearn.decomposition import PCA
from tqdm import tqdm

from kvhelpers import frames, log
from kvhelpers.errors import InputError
from kvhelpers.experiment.grid import finished_results
from kvhelpers.experiment.results import ConditionResult
from kvhelpers.format import GAP, estimate
from kvhelpers.frames import save_frames
from kvhelpers.hazard.evaluation import Evaluation
from kvhelpers.hazard.features import MAIN, family_names
from kvhelpers.hazard.predictors import SEED, BoostedTrees, LogisticHazard
from kvhelpers.hazard.risk_set import RiskSet, build
from kvhelpers.hazard.splits import Split, press_splits
from kvhelpers.paths import figures_dir, find_results, relative, replay_path
from kvhelpers.plots import MARKERS, STYLE, WIDTH, save
from kvhelpers.presses.registry import NONE
from kvhelpers.records import ATTENTION, COURSE, EVICTED, FULL, INSIDE
from kvhelpers.stats import Estimate, auroc_difference, auroc_of_pairs

NAME = Path(__file__).stem
SOURCES = {"002-compression-sweep": [], "006-capable-model": ["random 0.875"]}  # conditions; []: all
HORIZON, FOLDS = 10, 5


# 1. The replays
def replayed(experiment: str, labels: Sequence[str]) -> list[ConditionResult]:
    """The compressed conditions of an experiment, or those with these labels; missing replays are made."""
    from kvhelpers.commands.replay import replay  # needs torch

    results = finished_results(experiment, find_results(experiment))
    chosen = [result for result in results if not labels or result.label in labels]
    chosen = [result for result in chosen if result.condition.press != NONE and not result.is_invalid]
    replay(experiment, [*labels] or [result.label for result in chosen])
    return chosen


# 2. Families of features
SIGNALS = (*COURSE, *INSIDE, *ATTENTION, *FULL)  # columns of a replay, see `generation.inner_signals`
WINDOWS, EVERY, COMPONENTS = (8, 32), 8, 32
MOVING = (*COURSE, "alt_entropy", "varentropy")
ROLLED = [f"{name}_{what}{window}" for window in WINDOWS for what in ("mean", "std") for name in MOVING]
FULL_MEANS = [*(f"full_kl_mean{window}" for window in WINDOWS), "full_kl_mean", "full_kl_max"]
SPARSE = [*(f"sparse_{name}" for name in FULL), "sparse_kl_mean", "sparse_kl_max"]
PARTS = [f"component{number}" for number in range(COMPONENTS)]
FAMILIES = {
    "course": [*COURSE, *ROLLED],  # how the distribution moves from step to step
    "evicted": [*EVICTED],  # what the press took, one number a run
    "inside": [*INSIDE],  # cosines of hidden states with earlier ones
    "components": PARTS,  # of the middle hidden state, fitted on training prompts
    "attention": [*ATTENTION],  # weights on the first tokens, the prompt, the run's own tokens
    "sparse": SPARSE,  # divergence from the full cache, measured at every 8th token
    "oracle": [*FULL, *FULL_MEANS, "full_logprob_gap_mean8"],  # the same at every token
}
STORED = [name for family, names in FAMILIES.items() if family != "components" for name in names]
ROUNDING, TOLERANCE = 1e-3, 0.2  # nats; where scores tie, rounding decides what a press keeps


def features_of(signals: np.ndarray, alternatives: np.ndarray, gone: np.ndarray) -> np.ndarray:
    """`STORED` of a run's tokens from the first compressed one on, float32 ``[T, F]``, from `SIGNALS`
    ``[T, 23]``, alternatives' entropy and varentropy ``[T, 2]``, and `EVICTED` ``[7]``.
    """
    now = pd.DataFrame(signals, columns=SIGNALS)
    moving = now[[*COURSE]].assign(alt_entropy=alternatives[:, 0], varentropy=alternatives[:, 1])
    columns = {name: now[name] for name in SIGNALS}
    for window in WINDOWS:
        rolling = moving.rolling(window, min_periods=1)
        columns |= {f"{name}_mean{window}": values for name, values in rolling.mean().items()}
        columns |= {f"{name}_std{window}": values for name, values in rolling.std(ddof=0).items()}
        columns[f"full_kl_mean{window}"] = now["full_kl"].rolling(window, min_periods=1).mean()
    columns["full_kl_mean"] = now["full_kl"].expanding().mean()
    columns["full_kl_max"] = now["full_kl"].cummax()
    columns["full_logprob_gap_mean8"] = now["full_logprob_gap"].rolling(8, min_periods=1).mean()
    measured = now[[*FULL]].where(pd.Series((np.arange(len(now)) + 1) % EVERY == 0), axis=0)
    columns |= {f"sparse_{name}": values for name, values in measured.ffill().items()}
    kl = measured["full_kl"]
    columns["sparse_kl_mean"], columns["sparse_kl_max"] = kl.expanding().mean().ffill(), kl.cummax().ffill()
    columns |= dict(zip(EVICTED, np.tile(gone[:, None], len(now)), strict=True))
    return np.stack([np.asarray(columns[name]) for name in STORED], axis=1).astype(np.float32)


@dataclass(frozen=True)
class Inside:
    """Tokens at risk with `STORED` among their features, and the middle hidden state of each, ``[N, d]``; by
    how many nats replayed entropies differ from stored ones at most, and in how many runs by more than
    rounding.
    """

    risk: RiskSet
    middle: np.ndarray
    off: float
    parted: int

    def with_components(self, split: Split) -> RiskSet:
        """The tokens with the components too, fitted on the split's training tokens."""
        states = self.middle.astype(np.float32)
        found = PCA(COMPONENTS, svd_solver="randomized", random_state=SEED)
        parts = found.fit(states[split.train[self.risk.run]]).transform(states)
        features = np.concatenate([self.risk.features, parts.astype(np.float32)], axis=1)
        return replace(self.risk, features=features, names=(*self.risk.names, *PARTS))


def inside_of(results: Sequence[ConditionResult]) -> Inside:
    """What the replays of some conditions say. Raises InputError for a replay that is not of these runs."""
    risk, hashes = build(results), {result.label: result.condition_hash for result in results}
    tables, states, off, parted = [], [], 0.0, 0
    for run, (_, row) in enumerate(risk.runs.iterrows()):
        outside = risk.part(risk.run == run)
        if not len(outside.run):
            continue
        path = replay_path(row["experiment"], row["condition"], row["prompt_index"])
        with np.load(path) as stored:
            parts = {name: stored[name] for name in ("signals", "evicted", "entropy", "middle")}
            if str(stored["condition_hash"]) != hashes[row["condition"]]:
                raise InputError(f"{relative(path)} is a replay of another condition; delete it")
        entropy = outside.columns(["entropy"])[:, 0]
        same = len(entropy) == len(parts["entropy"])
        differs = float(np.abs(entropy - parts["entropy"]).max()) if same else np.inf
        if differs > TOLERANCE:
            raise InputError(f"{relative(path)}: its entropies differ by {differs:.2g} nats; delete it")
        off, parted = max(off, differs), parted + (differs > ROUNDING)
        alternatives = outside.columns(["alt_entropy", "varentropy"])
        tables.append(features_of(parts["signals"], alternatives, parts["evicted"]))
        states.append(parts["middle"])
    features = np.concatenate([risk.features, np.concatenate(tables)], axis=1)
    known = replace(risk, features=features, names=(*risk.names, *STORED))
    return Inside(known, np.concatenate(states), off, parted)


# 3. Scores of prompts not seen
OUTSIDE, ALL, UNSEEN = "outside", "all but the oracle", "press not seen"
PREDICTORS = {"logistic hazard": LogisticHazard, "boosted trees": BoostedTrees}
BESIDE = {OUTSIDE: [], **FAMILIES, ALL: [n for f, names in FAMILIES.items() if f != "oracle" for n in names]}


def scores_by_family(
    inner: Inside, horizon: int | None, make: type, splits: Sequence[Split]
) -> dict[str, np.ndarray]:
    """Each token's score with each family beside the outside, ``[N]``; NaN for tokens that no split tests."""
    scores = {family: np.full(len(inner.risk.run), np.nan) for family in BESIDE}
    for split in splits:
        risk, test = inner.with_components(split), split.test[inner.risk.run]
        tested = risk.part(test)
        for family, names in BESIDE.items():
            predictor = make(horizon, (*family_names(*MAIN), *names))
            scores[family][test] = predictor.fit(risk, split.train[risk.run]).score(tested)
    return scores


# 4. The long frame
def rows_of(experiment: str, inner: Inside, horizon: int | None, folds: int = FOLDS) -> list[dict]:
    """The rows of one question; none of what the runs leave undefined."""
    question = f"{experiment}, {'not right' if horizon is None else f'onset within {horizon}'}"
    evaluation, runs = Evaluation(inner.risk, horizon, folds), inner.risk.runs
    label, prompts, strata = evaluation.label, inner.risk.prompts, evaluation.strata
    asked = {name: (make, evaluation.splits) for name, make in PREDICTORS.items()}
    if by_press := press_splits(runs, folds):
        asked[UNSEEN] = (LogisticHazard, by_press)
    found: list[tuple[str, str, Estimate | None]] = []
    for name, (make, splits) in asked.items():
        scores = scores_by_family(inner, horizon, make, splits)
        for family, values in scores.items():
            found.append((family, f"within, {name}", auroc_of_pairs(values, label, prompts, strata)))
            if family != OUTSIDE:
                gain = auroc_difference(values, scores[OUTSIDE], label, prompts, strata)
                found.append((family, f"gain, {name}", gain))
            found.append((family, f"runs, {name}", evaluation.judge_runs(values)))
    rows = [frames.estimate_row(question, *key, value) for *key, value in found if value is not None]
    for row in rows:
        if row["metric"].startswith("gain"):
            row["verdict"] = frames.verdict(row["low"], row["high"])
    data = {
        "runs": len(runs),
        "prompts": runs["prompt"].nunique(),
        "tokens at risk": len(inner.risk.run),
        "failures": runs["failed"].sum(),
        "not right": (~inner.risk.ended(right=True) & ~runs["stopped"]).sum(),
        "largest difference of entropies, nats": inner.off,
        "runs whose entropies differ by more than rounding": inner.parted,
    }
    rows += [frames.row(question, family, "features", len(names)) for family, names in FAMILIES.items()]
    return rows + [frames.row(question, "data", metric, value) for metric, value in data.items()]


def estimates(sources: dict[str, list[str]]) -> pd.DataFrame:
    """Everything that is estimated; missing replays are made first."""
    inner = {experiment: inside_of(replayed(experiment, labels)) for experiment, labels in sources.items()}
    asked = [(experiment, horizon) for experiment in sources for horizon in (HORIZON, None)]
    rows = [row for name, horizon in tqdm(asked) for row in rows_of(name, inner[name], horizon)]
    return with_counts(frames.long_frame(rows))


def with_counts(long: pd.DataFrame) -> pd.DataFrame:
    """With rows that count the gains of families but the oracle, and those whose interval leaves 0 out."""
    gains = long[long["metric"].str.startswith("gain, ") & (long["subject"] != "oracle")]["verdict"]
    found = {"gains": len(gains)} | {word: (gains == word).sum() for word in ("higher", "lower")}
    rows = [frames.row("all", "families without the oracle", *pair) for pair in found.items()]
    return frames.long_frame(long.to_dict("records") + rows)


# 5. The figure
def gains(long: pd.DataFrame) -> plt.Figure:
    """What each family adds to the outside's AUROC, with 95 % intervals: a panel a question."""
    shown = long[long["metric"].str.startswith("gain, ") & long["low"].notna()]
    shown = shown.assign(predictor=shown["metric"].str.removeprefix("gain, "))
    names, kinds = [*BESIDE][1:], [*PREDICTORS, UNSEEN]

    def bars(data: pd.DataFrame, color: object, label: str, marker: str) -> None:
        places = data["subject"].map(names.index) + 0.22 * (kinds.index(label) - 1)
        ends = [data["estimate"] - data["low"], data["high"] - data["estimate"]]
        look = {"fmt": marker, "color": color, "markersize": 3.5, "linewidth": 1, "label": label}
        plt.gca().errorbar(data["estimate"], places, xerr=[end.clip(lower=0) for end in ends], **look)

    with plt.rc_context(STYLE):
        look = {"palette": "colorblind", "hue_kws": {"marker": MARKERS[: len(kinds)]}}
        grid = sns.FacetGrid(shown, col="question", col_wrap=2, hue="predictor", hue_order=kinds, **look)
        grid.map_dataframe(bars).set_titles("{col_name}")
        grid.set_axis_labels("AUROC gained within condition and token", "")
        for axes in grid.axes.flat:
            axes.axvline(0, color="0.6", linewidth=0.8, zorder=0)
            axes.set_yticks(range(len(names)), names)
        grid.axes.flat[0].invert_yaxis()
        marks = grid.axes.flat[0].get_legend_handles_labels()
        grid.figure.set(layout_engine="constrained", size_inches=(WIDTH, 6))
        grid.figure.legend(*marks, loc="outside upper center", ncols=len(kinds))
        plt.close(grid.figure)
    return grid.figure


# 6. The log's table
def table(long: pd.DataFrame) -> pd.DataFrame:
    """A row a family: AUROC and gain where a failure is asked for, and gains of the other questions."""
    known = long[long["estimate"].notna() & long["metric"].str.contains(", ")]
    at = {row[1:4]: estimate(Estimate(*row[4:9])).replace("-", "−") for row in known.itertuples()}
    onset, *others = [q for q in known["question"].unique() if (q, ALL, "gain, logistic hazard") in at]
    columns = {"AUROC": (onset, "within, logistic hazard"), "gain": (onset, "gain, logistic hazard")}
    columns |= {f"gain: {question}": (question, "gain, logistic hazard") for question in others}
    cells = {
        heading: [at.get((question, family, metric), GAP) for family in BESIDE]
        for heading, (question, metric) in columns.items()
    }
    return pd.DataFrame({"Features": [*BESIDE]} | cells)


def write_log(name: str, long: pd.DataFrame | None = None) -> Path:
    """Write the figure and the log's table, of the numbers that are there or of new ones; return the log's
    path.
    """
    if long is None:
        long = frames.read_long(name)
    else:
        save_frames({"estimates": long}, figures_dir(name))
    save(gains(long), figures_dir(name), "gains")
    picture = f"![What each family adds to the outside](../{relative(figures_dir(name))}/gains.png)"
    parts = [f"# Experiment {name}: inner signals", "## Conclusions", picture, "## Results\n"]
    return log.write_tables(name, [table(long)], "\n\n".join(parts))


if __name__ == "__main__":
    name, *source = sys.argv[1:] or [NAME]
    try:
        if name != NAME and not source:
            raise InputError(f"study {name!r} has no experiment to read; name one behind it")
        print("log:", relative(write_log(name, estimates({source[0]: source[1:]} if source else SOURCES))))
    except InputError as error:
        sys.exit(f"error: {error}")
