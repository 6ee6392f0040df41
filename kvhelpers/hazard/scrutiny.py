"""What the study's result hangs on that the study takes as given: definitions of failure, and what can be
known at all. A `Scrutiny` is data, a part of the study.

HERALD (https://github.com/JoaquinCampo/herald), a published predictor of looping, reports an AUROC above
.85 on other models and runs. It defines onsets, training tokens and scores otherwise. ``published`` starts
from its definitions, with the features and trees of this package, and changes one after another to those of
this package.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from tqdm import tqdm

from kvhelpers.analysis.runs import run_signals
from kvhelpers.experiment.results import ConditionResult
from kvhelpers.hazard.baselines import PROPOSED, TREES, family_names, proposed
from kvhelpers.hazard.evaluation import Evaluation
from kvhelpers.hazard.events import Definition, event_by
from kvhelpers.hazard.predictors import BoostedTrees, LogisticHazard
from kvhelpers.hazard.risk_set import RiskSet, build
from kvhelpers.hazard.twins import PROMPT, TWIN, with_twins
from kvhelpers.presses.registry import NONE
from kvhelpers.records import Record, Shape
from kvhelpers.stats import Estimate, TokenMetrics, auroc_difference, auroc_of_pairs

PUBLISHED_HORIZONS = (1, 10, 50)
PUBLISHED = Definition(second=True, limit_share=0.75)  # token 384 of 512
MOST_ROUNDS = 200  # of boosting, among which the best on the reported fold is taken
VARIED = {
    "as in this study": Definition(),
    "loops of 10 tokens": Definition(window=10),
    "loops of 40 tokens": Definition(window=40),
    "2 occurrences": Definition(repeats=2),
    "4 occurrences": Definition(repeats=4),
    "overrun from 10 tokens": Definition(goes_on=10),
    "overrun from 40 tokens": Definition(goes_on=40),
}
VARIED_HORIZONS = (5, 10, 32)


class PublishedStep(Shape):
    """With one more definition changed to this study's, by horizon: AUROC over the pairs of the same fold
    (``pooled``, as a mean over folds is) and over those of the same condition and token (``within``).
    """

    change: str
    failures: int
    pooled: dict[int, Estimate | None]
    within: dict[int, Estimate | None]


class VariedDefinition(Shape):
    """The proposed predictor's AUROC within condition and token, by horizon, with one number in the
    definition of failure changed.
    """

    definition: str
    failures: int
    within: dict[int, Estimate | None]


class Oracle(Shape):
    """What knowing more than a run shows would gain, trained and judged on compressed runs: predictors by
    what they know; and by kind of predictor the gain within condition and token of the one that knows most
    over the one that knows the run alone, on the same draws.
    """

    methods: dict[str, TokenMetrics]
    gain: dict[str, Estimate | None]


class Scrutiny(Shape):
    """Published definitions changed to this study's one after another; numbers in the definitions varied;
    an oracle asked when a failure begins, and whether the run ends right.
    """

    published: tuple[PublishedStep, ...]
    varied: tuple[VariedDefinition, ...]
    onsets_oracle: Oracle
    right_ends_oracle: Oracle


@dataclass(frozen=True)
class Run:
    """A run as the definitions see it: its ``record``, ``token_ids`` ``[T]``, the characters of its text up
    to each token's end ``[T]``, entropies ``[T]``, and the limit on new tokens.
    """

    record: Record
    token_ids: list[int]
    char_ends: np.ndarray
    entropy: np.ndarray
    limit: int


@dataclass(frozen=True)
class WholeRuns:
    """All tokens of all runs with their features, and the runs in the order of ``risk.runs``."""

    risk: RiskSet
    runs: list[Run]

    def by(self, definition: Definition) -> RiskSet:
        """All tokens, with the events of another definition."""
        outcomes = [
            event_by(definition, run.record, run.token_ids, run.char_ends, run.limit) for run in self.runs
        ]
        runs = self.risk.runs.assign(
            event=[event for event, _ in outcomes],
            time=[time for _, time in outcomes],
            failed=[event.is_failure for event, _ in outcomes],
        )
        return replace(self.risk, runs=runs)


def whole_runs(results: Sequence[ConditionResult], n_prompts: int | None = None) -> WholeRuns:
    """All tokens of the runs that `risk_set.build` takes."""
    risk = build(results, n_prompts=n_prompts, whole=True)
    names = ["token_id", "char_end", "entropy"]
    runs = [
        Run(
            record,
            tokens["token_id"].tolist(),
            tokens["char_end"].to_numpy(),
            tokens["entropy"].to_numpy(),
            result.condition.max_new_tokens,
        )
        for result in results
        if not result.is_invalid
        for record, tokens in run_signals(result, names, n_prompts)
    ]
    return WholeRuns(risk, runs)


def make_scrutiny(
    results: Sequence[ConditionResult],
    horizon: int,
    folds: int,
    families: Sequence[str],
    n_prompts: int | None = None,
    progress: bool = True,
) -> Scrutiny:
    """Compute everything, on the runs that `risk_set.build` takes.

    Raises
    ------
    InputError : as `risk_set.build`.
    """
    whole = whole_runs(results, n_prompts)
    with tqdm(total=4, desc="scrutiny", unit="part", disable=not progress) as bar:
        steps = tuple(_published(whole, folds, families))
        bar.update()
        varied = tuple(_varied(whole, folds, families))
        bar.update()
        compressed = (whole.risk.runs["press"] != NONE).to_numpy()[whole.risk.run]
        risk = whole.risk.part(whole.risk.before_event & compressed)
        known = with_twins(risk, results, [(run.token_ids, run.entropy) for run in whole.runs])
        oracles = []
        for asked in (horizon, None):
            oracles.append(_oracle(Evaluation(known, asked, folds), families))
            bar.update()
    return Scrutiny(published=steps, varied=varied, onsets_oracle=oracles[0], right_ends_oracle=oracles[1])


def _published(whole: WholeRuns, folds: int, families: Sequence[str]) -> Iterator[PublishedStep]:
    """From the published definitions to this study's, a change at a time, in this order."""
    unnumbered = [family for family in families if family != "position"]
    names, numbered = family_names(*unnumbered), family_names(*unnumbered, "position")
    published, ours = whole.by(PUBLISHED), whole.by(Definition())
    overruns = whole.by(replace(PUBLISHED, limit_share=None))
    changes = (
        ("all as published", published, numbered, True, True),
        ("rounds of boosting fixed beforehand", published, numbered, True, False),
        ("trained on tokens before the onset only", published, numbered, False, False),
        ("without the token's number", published, names, False, False),
        ("overruns instead of non-termination from 3/4 of the limit on", overruns, names, False, False),
        ("a loop begins with its first occurrence", ours, names, False, False),
    )
    for change, risk, features, beyond, best in changes:
        scores = {}
        for horizon in PUBLISHED_HORIZONS:
            predictor = BoostedTrees(horizon, features, *([MOST_ROUNDS] if best else []))
            scores[horizon] = _scored(risk, predictor, folds, beyond, best)
        yield _step(change, risk, scores, folds)
    before = ours.before_event
    scores = {}
    for horizon in PUBLISHED_HORIZONS:
        scores[horizon] = np.full(len(ours.run), np.nan)
        at_risk = Evaluation(ours.part(before), horizon, folds)
        scores[horizon][before] = at_risk.scores(proposed(horizon, families))
    yield _step(f"{PROPOSED} instead of trees", ours, scores, folds)


def _scored(risk: RiskSet, predictor: BoostedTrees, folds: int, beyond: bool, best: bool) -> np.ndarray:
    """Scores ``[N]`` of the tokens before the events of prompts not seen, trained on the tokens ``beyond``
    them too if wanted, with the ``best`` round of boosting for these tokens if wanted.
    """
    before, scores = risk.before_event, np.full(len(risk.run), np.nan)
    for split in Evaluation(risk, predictor.horizon, folds).splits:
        train, test = (side[risk.run] for side in (split.train, split.test))
        predictor.fit(risk, train if beyond else train & before)
        tested = risk.part(test & before)
        scores[test & before] = predictor.best_round(tested) if best else predictor.score(tested)
    return scores


def _step(change: str, risk: RiskSet, scores: Mapping[int, np.ndarray], folds: int) -> PublishedStep:
    """AUROCs of scores ``[N]`` by horizon, of the tokens before their run's event."""
    before, pooled, within = risk.before_event, {}, {}
    for horizon, values in scores.items():
        judged = Evaluation(risk.part(before), horizon, folds)
        for found, strata in ((pooled, judged.folds_of_tokens), (within, judged.strata)):
            found[horizon] = auroc_of_pairs(values[before], judged.label, judged.risk.prompts, strata)
    failures = int(risk.runs["failed"].sum())
    return PublishedStep(change=change, failures=failures, pooled=pooled, within=within)


def _varied(whole: WholeRuns, folds: int, families: Sequence[str]) -> Iterator[VariedDefinition]:
    """One number of the definition of failure changed at a time."""
    for name, definition in VARIED.items():
        risk = whole.by(definition)
        at_risk, within = risk.part(risk.before_event), {}
        for horizon in VARIED_HORIZONS:
            judged = Evaluation(at_risk, horizon, folds)
            scores = judged.scores(proposed(horizon, families))
            within[horizon] = auroc_of_pairs(scores, judged.label, at_risk.prompts, judged.strata)
        yield VariedDefinition(definition=name, failures=int(risk.runs["failed"].sum()), within=within)


def _oracle(evaluation: Evaluation, families: Sequence[str]) -> Oracle:
    """Predictors that know the uncompressed run and the prompt's fate elsewhere."""
    horizon, names = evaluation.horizon, family_names(*families)
    knowledge = {
        "the run": names,
        "the run and the uncompressed one": (*names, *TWIN),
        "both, and how the prompt's other runs end": (*names, *TWIN, *PROMPT),
    }
    methods, gain = {}, {}
    for kind, make in ((PROPOSED, LogisticHazard), (TREES, BoostedTrees)):
        scores = {what: evaluation.scores(make(horizon, known)) for what, known in knowledge.items()}
        methods |= {f"{kind}: {what}": evaluation.metrics(values) for what, values in scores.items()}
        least, *_, most = scores.values()
        gain[kind] = auroc_difference(
            most, least, evaluation.label, evaluation.risk.prompts, evaluation.strata
        )
    return Oracle(methods=methods, gain=gain)
