"""How scores of tokens at risk are judged: on prompts not seen, within a condition and a token's number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from kvhelpers import frames
from kvhelpers.hazard.events import Event
from kvhelpers.hazard.predictors import Predictor
from kvhelpers.hazard.risk_set import RiskSet
from kvhelpers.hazard.run_alarms import highest_by_run
from kvhelpers.hazard.splits import Split, prompt_splits, scores_of
from kvhelpers.stats import Estimate, TokenMetrics, auroc, estimate, token_metrics


@dataclass(frozen=True)
class Evaluation:
    """How scores are judged: labels at a horizon or, without one, of the whole run (`RiskSet.label`); folds
    by prompt.
    """

    risk: RiskSet
    horizon: int | None
    folds: int

    @cached_property
    def splits(self) -> list[Split]:
        """The folds."""
        return prompt_splits(self.risk.runs, self.folds)

    @cached_property
    def label(self) -> np.ndarray:
        """The label of each token at risk, ``[N]``."""
        return self.risk.label(self.horizon)

    @cached_property
    def fold(self) -> np.ndarray:
        """The fold in which each run is tested, ``[runs]``."""
        fold = np.zeros(len(self.risk.runs), dtype=int)
        for index, split in enumerate(self.splits):
            fold[split.test] = index
        return fold

    @property
    def folds_of_tokens(self) -> np.ndarray:
        """The fold of each token at risk, ``[N]``."""
        return self.fold[self.risk.run]

    @cached_property
    def groups(self) -> np.ndarray:
        """Runs of the same condition and the same fold, ``[runs]``."""
        columns = ["experiment", "condition", "fold"]
        return self.risk.runs.assign(fold=self.fold).groupby(columns).ngroup().to_numpy()

    @cached_property
    def strata(self) -> np.ndarray:
        """Tokens of the same condition, the same number and the same fold, ``[N]``: neither the condition nor
        the position tells them apart.

        Of the same fold, since one with more failures than the others is scored by a predictor that has seen
        fewer: over all folds even a constant looks as if it knew something, the wrong way round.
        """
        return self.groups[self.risk.run] * (self.risk.step.max(initial=0) + 1) + self.risk.step

    def scores(self, predictor: Predictor) -> np.ndarray:
        """Each token's score by a predictor trained on other prompts, ``[N]``."""
        return scores_of(self.risk, predictor, self.splits)

    def metrics(self, scores: np.ndarray, where: np.ndarray | None = None) -> TokenMetrics:
        """Token metrics of scores ``[N]``, on all tokens at risk or those in a mask."""
        where = np.ones(len(scores), dtype=bool) if where is None else where
        prompts = self.risk.prompts[where]
        return token_metrics(scores[where], self.label[where], prompts, self.strata[where])

    def rows(
        self, question: str, subject: str, scores: np.ndarray, where: np.ndarray | None = None
    ) -> Iterator[dict]:
        """Rows of the long frame (`frames.LONG`) for scores ``[N]``, of all tokens or those in a mask: AUROC
        ``within`` strata and over ``all pairs``, ``average precision``, ``Brier score``, the ``base rate``;
        and of all tokens ``runs``, see `judge_runs`.
        """
        made = self.metrics(scores, where)
        found = {"within": made.auroc_within, "all pairs": made.auroc}
        found |= {"average precision": made.auprc, "Brier score": made.brier}
        if where is None:
            found["runs"] = self.judge_runs(scores)
        for metric, value in found.items():
            yield frames.estimate_row(question, subject, metric, value)
        rate = np.nan if made.base_rate is None else made.base_rate
        yield frames.row(question, subject, "base rate", rate, n=made.tokens)

    def judge_runs(self, scores: np.ndarray) -> Estimate | None:
        """AUROC of whole runs by their highest score, over pairs of the same condition and fold: how often a
        run that fails is above one that does not (without a horizon: that ends right). Runs without a token
        at risk and runs whose outcome is not known are left out.
        """
        runs, failed = self.risk.runs, self.risk.runs["failed"].to_numpy()
        known = ~self.risk.has_event(Event.CENSORED)
        if self.horizon is None:
            failed, known = ~self.risk.ended(right=True), ~runs["stopped"].to_numpy(bool)
        highest = highest_by_run(self.risk, scores)
        used = known & np.isfinite(highest)
        if not used.any():
            return None
        return estimate(auroc(highest[used], failed[used], self.groups[used]), list(runs["prompt"][used]))


def shuffle_outcomes(risk: RiskSet, seed: int) -> RiskSet:
    """Give each run the event and its time of a run of its condition drawn at random; a run keeps its tokens
    at risk up to its new event.

    What a run's features say of its own outcome is gone. What is left: its condition fails often or seldom,
    failures come at certain tokens, and a run that is given a later event than its own has no tokens there.
    """
    rng, runs = np.random.default_rng(seed), risk.runs.copy()
    order = np.arange(len(runs))
    for members in runs.groupby(["experiment", "condition"]).indices.values():
        order[members] = rng.permutation(members)
    for name in ("event", "time", "failed", "correct", "stopped"):
        runs[name] = risk.runs[name].to_numpy()[order]
    shuffled = replace(risk, runs=runs)
    return shuffled.part(shuffled.before_event)
