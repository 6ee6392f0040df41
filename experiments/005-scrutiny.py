"""What the numbers of 005-hazard-predictor.py hang on, which computes these parts too:

1. a recurrent network on the same features, and a linear score that is trained on what it is judged by;
2. an oracle, which knows the uncompressed run of the same prompt and how the prompt's other runs end;
3. definitions of failure: published ones changed to ours one by one, and numbers of ours varied.

`PARTS` are functions from 005's data to rows of the long frame (`kvhelpers.frames`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Self

import numpy as np
import pandas as pd
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline
from tqdm import tqdm

from kvhelpers import frames
from kvhelpers.experiment.results import ConditionResult, find_baseline
from kvhelpers.hazard.evaluation import Evaluation
from kvhelpers.hazard.events import Definition
from kvhelpers.hazard.features import MAIN, family_names
from kvhelpers.hazard.model import PENALTY, logistic
from kvhelpers.hazard.predictors import SEED, BoostedTrees, LogisticHazard
from kvhelpers.hazard.risk_set import RiskSet
from kvhelpers.presses.registry import NONE
from kvhelpers.stats import auroc_difference, auroc_of_pairs

NAMES, HORIZON = family_names(*MAIN), 10
Rows = Iterator[dict]


# 1. Other learners
class Scaled(LogisticHazard):
    """What learns from the features as the logistic hazard's regression sees them."""

    def scaler(self, risk: RiskSet, known: np.ndarray) -> Pipeline:
        return logistic()[:2].fit(risk.columns(self.names, known).astype(float))

    def inputs(self, risk: RiskSet) -> np.ndarray:
        return self.scale.transform(risk.columns(self.names).astype(float)).astype(np.float32)


class WithinStrata(Scaled):
    """A linear score, trained on pairs of tokens of the same condition and number: each token before a
    failure with up to 4 others, drawn at random.
    """

    def fit(self, risk: RiskSet, train: np.ndarray) -> Self:
        label, rng = risk.label(self.horizon), np.random.default_rng(SEED)
        known = np.flatnonzero(train & ~np.isnan(label))
        self.scale = self.scaler(risk, known)
        condition = risk.runs.groupby(["experiment", "condition"]).ngroup().to_numpy()[risk.run[known]]
        pairs = []
        for _, places in pd.Series(known).groupby([condition, risk.step[known]]):
            bad = label[places] == 1
            others = places[~bad].to_numpy()
            for place in places[bad] if len(others) else ():
                pairs += [(place, other) for other in rng.permutation(others)[:4]]
        self.regression = None
        if pairs:
            inputs = self.inputs(risk)
            first, second = (inputs[list(places)] for places in zip(*pairs, strict=True))
            differences, labels = (
                np.concatenate([first - second, second - first]),
                np.repeat([1, 0], len(first)),
            )
            self.regression = LogisticRegression(C=PENALTY, fit_intercept=False).fit(differences, labels)
        return self

    def score(self, risk: RiskSet) -> np.ndarray:
        if self.regression is None:
            return np.zeros(len(risk.run))
        return expit(self.regression.decision_function(self.inputs(risk)))


class Recurrent(Scaled):
    """A gated recurrent unit (Cho et al. 2014) of 32 units, which reads a run's tokens in their order."""

    HIDDEN, EPOCHS, AT_ONCE = 32, 8, 64

    def fit(self, risk: RiskSet, train: np.ndarray) -> Self:
        import torch

        label = np.where(train, risk.label(self.horizon), np.nan)
        self.scale = self.scaler(risk, ~np.isnan(label))
        inputs = self.inputs(risk)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            self.reads = torch.nn.GRU(len(self.names), self.HIDDEN, batch_first=True)
            self.says = torch.nn.Linear(self.HIDDEN, 1)
            parameters = [*self.reads.parameters(), *self.says.parameters()]
            optimizer = torch.optim.AdamW(parameters, 3e-3, weight_decay=1e-4)
            rng, runs = np.random.default_rng(SEED), np.unique(risk.run[~np.isnan(label)])
            for _ in range(self.EPOCHS):
                for places, inside in self._batches(risk.run, rng.permutation(runs)):
                    wanted = torch.from_numpy(label[places].astype(np.float32))
                    counted = torch.from_numpy(inside) & ~wanted.isnan()
                    if not counted.any():
                        continue
                    logits = self._logits(inputs, places, inside)[counted]
                    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted[counted])
                    optimizer.zero_grad()
                    loss.backward()
                    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                    optimizer.step()
        return self

    def score(self, risk: RiskSet) -> np.ndarray:
        import torch

        inputs, scores = self.inputs(risk), np.full(len(risk.run), np.nan)
        with torch.inference_mode():
            for places, inside in self._batches(risk.run, np.unique(risk.run)):
                scores[places[inside]] = self._logits(inputs, places, inside).sigmoid().numpy()[inside]
        return scores

    def _logits(self, inputs: np.ndarray, places: np.ndarray, inside: np.ndarray):
        import torch

        states, _ = self.reads(torch.from_numpy(inputs[places] * inside[..., None].astype(np.float32)))
        return self.says(states)[..., 0]

    def _batches(self, run: np.ndarray, runs: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Runs as places of their tokens ``[runs, longest]``, and which of these are tokens of the run."""
        first = np.searchsorted(run, runs)
        length = np.searchsorted(run, runs, side="right") - first
        for start in range(0, len(runs), self.AT_ONCE):
            at, count = (part[start : start + self.AT_ONCE, None] for part in (first, length))
            steps = np.arange(count.max())
            yield at + np.minimum(steps, count - 1), steps < count


def learners(data) -> Rows:
    """On the same folds as the hazard, and how far that is above each."""
    judged = data.judged()
    hazard = judged.scores(LogisticHazard(HORIZON, NAMES))
    for name, make in {"recurrent network": Recurrent, "trained within strata": WithinStrata}.items():
        scores = judged.scores(make(HORIZON, NAMES))
        yield from judged.rows("single tokens", name, scores)
        above = auroc_difference(hazard, scores, judged.label, data.risk.prompts, judged.strata)
        yield verdict_row("single tokens", name, "hazard above, within", above)
    scores = data.judged(1).scores(WithinStrata(1, NAMES))
    yield from data.judged(1).rows("horizon", "1, trained within strata", scores)


def verdict_row(question: str, subject: str, metric: str, value) -> dict:
    """A difference's row, with its verdict."""
    row = frames.estimate_row(question, subject, metric, value)
    return row | {"verdict": frames.verdict(row["low"], row["high"])}


# 2. The oracle
TWIN = ("same", "since_difference", "entropy_gap", "in_twin16", "twin_right", "twin_tokens", "twin_left")
PROMPT = ("fails_elsewhere", "right_elsewhere")


def oracle(data) -> Rows:
    """The hazard and the trees on compressed runs, told more that nobody knows while a run goes on."""
    told = {"the run": NAMES, "the run and the uncompressed one": (*NAMES, *TWIN)}
    told["both, and how the prompt's other runs end"] = (*NAMES, *TWIN, *PROMPT)
    risk = with_twins(data)
    for horizon, question in ((HORIZON, "oracle"), (None, "oracle, not right")):
        judged = Evaluation(risk, horizon, data.folds)
        for kind, make in {"logistic hazard": LogisticHazard, "boosted trees": BoostedTrees}.items():
            scores = {what: judged.scores(make(horizon, names)) for what, names in told.items()}
            for what, values in scores.items():
                yield from judged.rows(question, f"{kind}: {what}", values)
            least, *_, most = scores.values()
            gain = auroc_difference(most, least, judged.label, risk.prompts, judged.strata)
            yield verdict_row(question, kind, "gain within", gain)


def with_twins(data) -> RiskSet:
    """The compressed runs' tokens with `TWIN`, missing where there is no uncompressed run, and `PROMPT`: how
    often the prompt's other compressed runs fail, and end right.
    """
    runs, right = data.risk.runs, data.risk.ended(right=True)
    compressed = (runs["press"] != NONE).to_numpy()
    risk, twin_of = data.risk.part(compressed[data.risk.run]), twins(runs, data.results)
    counts = {"n": compressed, "fails": runs["failed"] & compressed, "right": right & compressed}
    counts = pd.DataFrame(counts, index=runs.index).astype(float)
    others = counts.groupby([runs["task"], runs["prompt"]]).transform("sum") - counts
    elsewhere = others[["fails", "right"]].div(others["n"].where(others["n"] > 0), axis=0).to_numpy()
    columns = np.full((len(risk.run), len(TWIN)), np.nan, dtype=np.float32)
    bounds = np.searchsorted(risk.run, np.arange(len(runs) + 1))
    for run, twin in twin_of.items():
        part = slice(*bounds[run : run + 2])
        if part.start < part.stop:
            columns[part] = of_twin(data.runs[run], data.runs[twin], right[twin])[risk.step[part]]
    features = np.concatenate([risk.features, columns, elsewhere[risk.run].astype(np.float32)], axis=1)
    return replace(risk, features=features, names=(*risk.names, *TWIN, *PROMPT))


def twins(runs: pd.DataFrame, results: Sequence[ConditionResult]) -> dict[int, int]:
    """The place of each run's uncompressed run, by its own."""
    keys = zip(runs["experiment"], runs["condition"], runs["prompt"], strict=True)
    place, found = {key: number for number, key in enumerate(keys)}, {}
    for result in results:
        name = result.condition.experiment
        bare = find_baseline([one for one in results if one.condition.experiment == name], result)
        for record in result.records if bare is not None and bare.label != result.label else ():
            pair = [place.get((name, one.label, record.prompt_id)) for one in (result, bare)]
            if None not in pair:
                found[pair[0]] = pair[1]
    return found


def of_twin(run: tuple, twin: tuple, right: bool) -> np.ndarray:
    """`TWIN` at each token of a run, ``[T, 7]``: whether all tokens so far are the twin's, how many came
    since they are not, the difference of entropies (nats) while they are, the share of the last 16 trigrams
    that the twin has, whether it is right, its tokens, and how many of them are left.
    """
    (_, ids, _, entropy, _), (_, twin_ids, _, twin_entropy, _) = run, twin
    steps, shared = np.arange(len(ids)), min(len(ids), len(twin_ids))
    same = np.zeros(len(ids), dtype=bool)
    same[:shared] = np.logical_and.accumulate(np.array(ids[:shared]) == np.array(twin_ids[:shared]))
    first, gap = int(same.sum()), np.full(len(ids), np.nan)
    gap[:first] = entropy[:first] - twin_entropy[:first]
    grams, known = set(zip(twin_ids, twin_ids[1:], twin_ids[2:], strict=False)), pd.Series(np.nan, steps)
    found = [gram in grams for gram in zip(ids, ids[1:], ids[2:], strict=False)]
    known.iloc[2:] = np.array(found, dtype=float)
    recent, ones = known.rolling(16, min_periods=1).mean(), np.ones(len(ids))
    end = (right * ones, len(twin_ids) * ones, len(twin_ids) - 1 - steps)
    return np.stack([same, np.maximum(0, steps - first + 1), gap, recent, *end], axis=1).astype(np.float32)


# 3. Definitions of failure
PUBLISHED = Definition(second=True, limit_share=0.75)  # of HERALD, https://github.com/JoaquinCampo/herald
ROUNDS = 200  # of boosting, among which the best on the reported fold is taken
VARIED = {
    "loops of 10 tokens": Definition(window=10),
    "loops of 40 tokens": Definition(window=40),
    "2 occurrences": Definition(repeats=2),
    "4 occurrences": Definition(repeats=4),
    "overrun from 10 tokens": Definition(goes_on=10),
    "overrun from 40 tokens": Definition(goes_on=40),
}


def definitions(data) -> Rows:
    """From published definitions to ours, a change at a time, with trees; all judged on tokens before the
    onset, of prompts not seen, over pairs of a fold as a mean over folds is.
    """
    published, overruns = data.by(PUBLISHED), data.by(replace(PUBLISHED, limit_share=None))
    numbered, ours = family_names(*MAIN, "position"), data.by(Definition())
    steps = (
        ("all as published", published, numbered, True, True),
        ("rounds of boosting fixed beforehand", published, numbered, True, False),
        ("trained on tokens before the onset only", published, numbered, False, False),
        ("without the token's number", published, NAMES, False, False),
        ("overruns instead of no end", overruns, NAMES, False, False),
        ("a loop begins with its first occurrence", ours, NAMES, False, False),
    )
    for change, risk, names, beyond, best in tqdm(steps, desc="definitions", leave=False):
        yield frames.row("definitions", change, "failures", risk.runs["failed"].sum())
        for horizon in (1, HORIZON, 50):
            judged = Evaluation(risk.part(risk.before_event), horizon, data.folds)
            scores = scored(risk, horizon, names, judged, beyond, best)[risk.before_event]
            for metric, strata in (("pairs of a fold", judged.folds_of_tokens), ("within", judged.strata)):
                value = auroc_of_pairs(scores, judged.label, judged.risk.prompts, strata)
                yield frames.estimate_row("definitions", change, f"{metric}, horizon {horizon}", value)


def scored(
    risk: RiskSet, horizon: int, names: Sequence[str], judged: Evaluation, beyond: bool, best: bool
) -> np.ndarray:
    """Trees' scores ``[N]`` of the tokens before the events: trained on tokens ``beyond`` them too, and with
    the ``best`` round for the very tokens that are reported, where wanted.
    """
    before, scores = risk.before_event, np.full(len(risk.run), np.nan)
    for split in judged.splits:
        train, test = split.train[risk.run], split.test[risk.run] & before
        trees = BoostedTrees(horizon, names, *([ROUNDS] if best else []))
        tested = risk.part(test)
        label = tested.label(horizon)
        scores[test] = trees.fit(risk, train if beyond else train & before).score(tested)
        known = ~np.isnan(label)
        if best and trees.only_rate is None and len(set(label[known])) == 2:
            stages = trees.classifier.staged_predict_proba(trees.filled(tested.columns(names)))
            rounds = (stage[:, 1] for stage in stages)
            scores[test] = max(rounds, key=lambda one: roc_auc_score(label[known], one[known]))
    return scores


def varied(data) -> Rows:
    """The hazard with one number of the definition of failure changed."""
    for change, definition in tqdm(VARIED.items(), desc="varied", leave=False):
        risk = data.by(definition)
        yield frames.row("varied", change, "failures", risk.runs["failed"].sum())
        for horizon in (5, HORIZON, 32):
            judged = Evaluation(risk.part(risk.before_event), horizon, data.folds)
            scores = judged.scores(LogisticHazard(horizon, NAMES))
            value = auroc_of_pairs(scores, judged.label, judged.risk.prompts, judged.strata)
            yield frames.estimate_row("varied", change, f"within, horizon {horizon}", value)


PARTS = {part.__name__: part for part in (learners, oracle, definitions, varied)}
