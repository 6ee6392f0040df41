"""Why did the original fail? What is kept of the question, and whether the first token is.

    python experiments/018-the-original.py --intervene   first the runs of the intervention (behind it: of how
                                                         many prompts)
    python experiments/018-the-original.py --kept        first prefill other experiments' prompts again
    python experiments/018-the-original.py               tables and figures of what is there
    python -m kvhelpers log 018-the-original             the log

1. The original's numbers, beside ours: the same ten prompts, and all.
2. The intervention: a press that keeps what it is told to keep, and chooses the rest at random.
3. What runs of other experiments kept of the question, by prefilling their prompts again.
4. How much of right and wrong is known from the question and the first token, and what press and ratio add.
5. The figure: a point a condition, and a point a run.

Both ways of making runs save after each prompt or condition, and go on where they were stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from kvpress import ScorerPress
from scipy.stats import fisher_exact
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from kvhelpers import frames
from kvhelpers.errors import InputError
from kvhelpers.experiment.condition import make_condition
from kvhelpers.experiment.grid import finished_results, load_experiment
from kvhelpers.experiment.results import ConditionResult
from kvhelpers.experiment.run import load_for, press_seed, prompts_of, recorded, tags_of
from kvhelpers.frames import save_frames
from kvhelpers.paths import experiment_file, figures_dir, find_results, relative
from kvhelpers.plots import STYLE, WIDTH, save, wilson_ends
from kvhelpers.presses.registry import NONE
from kvhelpers.stats import compare_counts, estimate, mean

NAME = Path(__file__).stem
FIRST = 10  # prompts of the original
OTHERS = ("001-reproduce-failures", "002-compression-sweep", "009-question-and-window")  # and more by name

# 1. The original's numbers: Qwen2.5-3B-Instruct in float16, its own log
ORIGINAL = pd.DataFrame(
    [
        ("none", 10, 5, 0, 0, 325, 3.36, 0.131),
        ("streaming_llm 0.5", 10, 7, 0, 2, 333, 3.33, 0.148),
        ("streaming_llm 0.875", 10, 0, 1, 1, 362, 5.28, 0.066),
        ("snapkv 0.875", 10, 0, 10, 7, 472, 8.63, 0.012),
    ],
    columns=["condition", "n", "right", "loops", "no end", "tokens", "largest entropy", "smallest top-1"],
)
SHARES = {"right": "correct", "loops": "looping", "no end": "non_termination"}


def beside_the_original(runs: pd.DataFrame, signals: pd.DataFrame) -> list[dict]:
    """A row for each of the original's counts and means: ours of all prompts, of its first ten, and its own;
    ``q`` of all prompts is the p of Fisher's exact test against its count.
    """
    runs = runs.merge(signals, on="run", how="left")
    rows = []
    for theirs in ORIGINAL.to_dict("records"):
        ours = runs[runs["condition"] == theirs["condition"]]
        if ours.empty:
            continue
        ten = ours[ours["prompt_index"] < FIRST]
        for metric, column in SHARES.items():
            count, n = int(ours[column].sum()), len(ours)
            p = fisher_exact([[count, n - count], [theirs[metric], FIRST - theirs[metric]]])[1]
            rows.append(frames.rate_row("all prompts", theirs["condition"], metric, count, n) | {"q": p})
            rows.append(
                frames.rate_row("first ten", theirs["condition"], metric, int(ten[column].sum()), len(ten))
            )
            rows.append(frames.rate_row("original", theirs["condition"], metric, theirs[metric], FIRST))
        for metric, best in (("tokens", "mean"), ("largest entropy", "max"), ("smallest top-1", "min")):
            for question, part in (("all prompts", ours), ("first ten", ten)):
                value = part[metric].agg(best)
                rows.append(frames.row(question, theirs["condition"], metric, value, n=len(part)))
            rows.append(frames.row("original", theirs["condition"], metric, theirs[metric], n=FIRST))
    return rows


# 2. The intervention
@dataclass
class Told(ScorerPress):
    """Keeps the places ``kept`` and evicts ``gone``; each head keeps others at random."""

    kept: tuple[int, ...] = ()
    gone: tuple[int, ...] = ()

    def score(self, module, hidden_states, keys, values, attentions, kwargs) -> torch.Tensor:
        """Scores ``[B, G, N]``."""
        scores = torch.rand(keys.shape[:3]).to(keys.device)
        scores[..., list(self.kept)] = 2.0
        scores[..., list(self.gone)] = -1.0
        return scores


BUDGETS = (96, 128)
WAYS = ("question and first token", "first token gone", "half of the question gone")
COLUMNS = ("correct", "looping", "non_termination", "tokens", "kept_tokens", "question_kept", "sink_kept")


def told(way: str, budget: int, n: int, question: tuple[int, int]) -> Told:
    """The press of a prompt of ``n`` tokens: ``budget`` of them stay, or as many as the way needs."""
    start, end = question
    ending, half = range(end, n), range(start, (start + end) // 2)
    kept, gone = [0, *range(start, n)], []
    if way == WAYS[1]:
        kept, gone = [*range(start, n)], [0]
    elif way == WAYS[2]:
        kept, gone = [0, *range(half.stop, end), *ending], [*half]
    stay = min(max(budget, len(kept)), n - len(gone))
    return Told(1 - (stay + 0.5) / n, tuple(kept), tuple(gone))


def intervene(path: Path, first: int) -> None:
    """Run the ways at the budgets on the experiment's ``first`` prompts; a row a run in ``path``."""
    from kvhelpers.generation.generate import Request, Settings, generate

    spec = load_experiment(experiment_file(NAME))
    base = make_condition(spec.parameters | {"experiment": NAME, "press": NONE})
    lm = load_for(base)
    prompts, tags = prompts_of(base, lm), tags_of(base, lm)
    done = pd.read_csv(path).to_dict("records") if path.exists() else []
    for budget in BUDGETS:
        for way in WAYS:
            there = {row["prompt"] for row in done if (row["way"], row["budget"]) == (way, budget)}
            asked = [i for i, prompt in enumerate(prompts[:first]) if prompt.id not in there]
            if not asked:
                continue
            requests = [
                Request(
                    prompt.token_ids,
                    told(way, budget, len(prompt.token_ids), prompt.question_tokens),
                    press_seed(base.seed, prompt.id),
                    question=prompt.question_tokens,
                )
                for prompt in (prompts[index] for index in asked)
            ]
            settings = Settings(base.max_new_tokens, 10, base.ends, think_tags=tags)
            for run in tqdm(generate(lm, requests, settings), f"{way}, {budget}", len(requests)):
                index = asked[run.index]
                record, _ = recorded(base, lm, index, prompts[index], run)
                about = {"way": way, "budget": budget, "prompt": prompts[index].id, "prompt_index": index}
                about |= {"correct": record.correct, "tokens": record.n_tokens}
                about |= {name: getattr(record.failures, name) for name in ("looping", "non_termination")}
                about |= {name: getattr(run.cache, name, None) for name in COLUMNS[4:]}
                done.append(about)
                save_frames({path.stem: pd.DataFrame(done)}, path.parent)


def intervention_rows(done: pd.DataFrame, runs: pd.DataFrame) -> list[dict]:
    """Rates of each way, of all its prompts and of the first ten, and the difference to no press on the same
    prompts.
    """
    plain = runs[runs["press"] == NONE].set_index("prompt")
    rows, ten = [], done[done["prompt_index"] < FIRST].assign(way=done["way"] + ", first ten")
    for (way, budget), part in pd.concat([done, ten]).groupby(["way", "budget"], sort=False):
        subject = f"{way}, {budget} kept"
        for metric, column in SHARES.items():
            twins = plain.loc[part["prompt"], column].to_numpy(bool)
            ours = part[column].to_numpy(bool)
            change = compare_counts(int((twins & ~ours).sum()), int((ours & ~twins).sum()), len(part))
            rows.append(frames.rate_row("intervention", subject, metric, int(ours.sum()), len(part)))
            against = {"low": change.low, "high": change.high, "q": change.p, "n": len(part)}
            against["verdict"] = frames.verdict(change.low, change.high)
            rows.append(
                frames.row("intervention", subject, f"{metric}, against none", change.difference, **against)
            )
        for name in COLUMNS[4:]:
            rows.append(frames.row("intervention", subject, name, part[name].mean(), n=len(part)))
    return rows


# 3. What finished runs kept
def kept_again(result: ConditionResult) -> Iterator[dict]:
    """Prefill a condition's prompts again: what stays of the question and of the first token."""
    from kvhelpers.generation.prefill import Prefiller
    from kvhelpers.generation.requests import Request

    lm = load_for(result.condition)
    prompts = prompts_of(result.condition, lm)
    prefill = Prefiller(lm, [prompt.token_ids for prompt in prompts])
    for record, prompt in zip(result.records, prompts, strict=True):
        press = result.condition.press_spec.for_prompt(len(prompt.token_ids))
        seed = press_seed(result.condition.seed, prompt.id)
        (left,) = prefill([Request(prompt.token_ids, press, seed, question=prompt.question_tokens)])
        if isinstance(left, str) or record.cache is None:
            continue
        report = left.report
        if abs(report.kept_tokens - record.cache.kept_tokens) > 1e-3:
            raise InputError(f"{result.label}: prompt {prompt.id} does not keep what its run kept")
        about = {"experiment": result.condition.experiment, "condition": result.label, "prompt": prompt.id}
        yield about | {"question_kept": report.question_kept, "sink_kept": report.sink_kept}


def prefill_again(path: Path, experiments: list[str]) -> None:
    """Add what the runs of these experiments kept to the table in ``path``, a condition at a time."""
    done = pd.read_csv(path).to_dict("records") if path.exists() else []
    there = {(row["experiment"], row["condition"]) for row in done}
    for experiment in experiments:
        results = finished_results(experiment, find_results(experiment))
        for result in tqdm([one for one in results if one.condition.press != NONE], experiment):
            if (experiment, result.label) not in there:
                done += kept_again(result)
                save_frames({path.stem: pd.DataFrame(done)}, path.parent)


# 4. What question and first token explain
INTACT = "question whole, first token kept"
MODELS = {
    "nothing": [],
    "kept tokens": ["kept"],
    "press and ratio": ["condition"],
    "question and first token": ["question_kept", "sink_kept"],
    "question, first token and kept tokens": ["question_kept", "sink_kept", "kept"],
    "all of these": ["question_kept", "sink_kept", "kept", "condition"],
}


def explained(runs: pd.DataFrame, name: str) -> list[dict]:
    """Runs whose uncompressed twin is right: out-of-fold log-loss of predicting that they are right, by what
    is known of them; and how much of the loss is in runs that lost the question or the first token.
    """
    runs = runs[(runs["press"] != NONE) & runs["baseline_correct"].fillna(False).astype(bool)]
    runs = runs.dropna(subset=["question_kept", "sink_kept"]).reset_index(drop=True)
    right, prompts = runs["correct"].astype(int).to_numpy(), runs["prompt"].to_numpy()
    runs = runs.assign(kept=np.log2(runs["kept_tokens"]))
    columns = {"condition": pd.get_dummies(runs["experiment"] + runs["condition"]).to_numpy(float)}
    columns |= {one: runs[[one]].to_numpy(float) for one in ("kept", "question_kept", "sink_kept")}
    losses, rows, folds = {}, [], GroupKFold(5)
    for model, names in MODELS.items():
        table = np.hstack([np.ones((len(runs), 1)), *(columns[one] for one in names)])
        fitted = make_pipeline(StandardScaler(), LogisticRegression(C=1.0))
        chance = cross_val_predict(fitted, table, right, groups=prompts, cv=folds, method="predict_proba")
        losses[model] = -np.log(np.clip(chance[np.arange(len(right)), right], 1e-6, 1))
        rows.append(frames.bootstrap_row("log-loss", name, model, mean(losses[model]), prompts))
    for first, second in (
        ("press and ratio", "all of these"),
        ("question, first token and kept tokens", "all of these"),
    ):
        gain = mean(losses[first] - losses[second])
        rows.append(frames.bootstrap_row("log-loss", name, f"gain of all over {first}", gain, prompts))
    intact = ((runs["question_kept"] == 1) & (runs["sink_kept"] == 1)).to_numpy()
    for subject, part in ((INTACT, runs[intact]), ("question or first token lost", runs[~intact])):
        wrong = int((~part["correct"]).sum())
        rows.append(frames.rate_row(f"right before, wrong now, {name}", subject, "share", wrong, len(part)))

    def attributable(weights: np.ndarray) -> np.ndarray:
        """Of the lost answers, the share that would not be lost at the loss of the runs that are intact."""
        wrong = 1.0 - right
        whole = weights @ wrong / weights.sum(1)
        alone = weights @ (wrong * intact) / np.maximum(weights @ intact, 1e-9)
        return 1 - alone / np.maximum(whole, 1e-9)

    if min(intact.sum(), (~intact).sum()) >= FIRST:  # fewer are no ground for a share
        made = estimate(attributable, prompts)
        rows.append(frames.estimate_row("lost answers", name, "share that goes with what was lost", made))
    return rows


# 5. The figure
def figure(runs: pd.DataFrame) -> plt.Figure:
    """Share right by what is kept of the question, and loops by the first token: a point a condition with
    its Wilson interval, a small one a run.
    """
    runs = runs.dropna(subset=["question_kept", "sink_kept"])
    names = list(dict.fromkeys(runs["condition"]))
    colours = dict(zip(names, sns.color_palette("colorblind", len(names)), strict=True))
    ends = {
        "question_kept": "question kept (share of its tokens)",
        "sink_kept": "first token kept (share of heads)",
    }
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.6), layout="constrained")
        for axes, column, outcome, title in (
            (left, "question_kept", "correct", "right"),
            (right, "sink_kept", "looping", "loops"),
        ):
            spread = np.random.default_rng(0).uniform(-0.03, 0.03, (2, len(runs)))
            places = (runs[column] + spread[0], runs[outcome].astype(float) + spread[1])
            axes.scatter(
                *places, s=6, alpha=0.25, c=[colours[name] for name in runs["condition"]], linewidths=0
            )
            for name, part in runs.groupby("condition", sort=False):
                share, (low, high) = part[outcome].mean(), wilson_ends(part[outcome])
                look = {"fmt": "o", "color": colours[name], "markersize": 6, "label": name, "capsize": 2}
                axes.errorbar(part[column].mean(), share, [[share - low], [high - share]], **look)
            axes.set(xlabel=ends[column], ylabel=f"share {title}", xlim=(-0.06, 1.06), ylim=(-0.08, 1.08))
            axes.grid(alpha=0.3)
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=8)
        plt.close(figure)
    return figure


def main(asked: list[str]) -> None:
    """Make what is asked for, then the tables and figures of all that is there."""
    folder = figures_dir(NAME) / "question"
    made, kept = folder / "runs.csv", folder / "kept.csv"
    if asked[:1] == ["--intervene"]:
        if len(asked) > 2 or not all(text.isdecimal() and int(text) for text in asked[1:]):
            raise InputError(f"--intervene {' '.join(asked[1:])} is not allowed; it is a number of prompts")
        intervene(made, int(asked[1]) if len(asked) > 1 else 50)
    elif asked[:1] == ["--kept"]:
        prefill_again(kept, asked[1:] or [*OTHERS])
    elif asked:
        raise InputError(f"argument {asked[0]!r} is not allowed; it is --intervene, --kept or none")
    results = finished_results(NAME, find_results(NAME))
    runs, tokens = frames.runs(results), frames.tokens(results, ("entropy", "top1_prob"))
    by_run = tokens.groupby("run")
    signals = pd.DataFrame(
        {"largest entropy": by_run["entropy"].max(), "smallest top-1": by_run["top1_prob"].min()}
    )
    rows = beside_the_original(runs, signals.reset_index())
    if made.exists():
        rows += intervention_rows(pd.read_csv(made), runs)
    rows += explained(runs, NAME)
    if kept.exists():
        others = pd.read_csv(kept)
        parts = [runs]
        for experiment in others["experiment"].unique():
            there = frames.runs(finished_results(experiment, find_results(experiment)))
            there = there.drop(columns=["question_kept", "sink_kept"])
            there = there.merge(others, on=["experiment", "condition", "prompt"], how="inner")
            rows += explained(there, experiment)
            parts.append(there)
        rows += explained(pd.concat(parts, ignore_index=True), "all")
    long = frames.long_frame(rows)
    save_frames({"explained": long}, folder)
    shown = [runs[runs["press"] != NONE]]
    if made.exists():
        done = pd.read_csv(made)
        shown.append(
            done.assign(condition=[f"told: {way}, {n}" for way, n in done[["way", "budget"]].values])
        )
    save(figure(pd.concat(shown, ignore_index=True)), folder, "question")
    print(long.drop(columns=["prompts"]).dropna(how="all", axis=1).to_string(index=False))
    print("tables and figure:", relative(folder))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
