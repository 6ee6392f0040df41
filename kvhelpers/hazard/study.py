"""Everything that is computed about predictors of failure, once, for the notebook and for the log.

Every score comes from a predictor that has seen neither the prompt nor, where it says so, the press or the
task. Penalty and trees were chosen on other problems (`model`, `predictors`). A `Study` is data: it is stored
as JSON, from which the log is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from kvhelpers.errors import InputError, unknown_name
from kvhelpers.experiment.results import ConditionResult
from kvhelpers.experiment.seal import sealed_text, unsealed
from kvhelpers.hazard.baselines import (
    AVERAGE,
    BASE_RATE,
    CONDITION,
    MAIN,
    PROPOSED,
    RECURRENT,
    TREES,
    baselines,
    family_names,
    press_names,
    proposed,
)
from kvhelpers.hazard.evaluation import Evaluation
from kvhelpers.hazard.events import Event
from kvhelpers.hazard.examples import MissedFailure, RiskTrace, missed_failures, risk_traces
from kvhelpers.hazard.features import FAMILIES
from kvhelpers.hazard.incidence import IncidenceCurve, incidence_curves
from kvhelpers.hazard.model import HazardModel, fit, fit_numbers
from kvhelpers.hazard.online import Cost, measure_cost
from kvhelpers.hazard.predictors import SEED, BoostedTrees, LogisticHazard, Predictor, averaged
from kvhelpers.hazard.provenance import StudyProvenance, study_provenance
from kvhelpers.hazard.recurrent import RecurrentHazard
from kvhelpers.hazard.risk_set import RiskSet
from kvhelpers.hazard.run_alarms import RATES, RunAlarms, alarm_tokens, caught_difference, judge_alarms
from kvhelpers.hazard.scrutiny import Scrutiny
from kvhelpers.hazard.splits import FOLDS, press_splits, scores_of, task_splits, with_share
from kvhelpers.paths import relative, write_atomic
from kvhelpers.presses.registry import NONE
from kvhelpers.records import Shape
from kvhelpers.scoring.flags import INVALIDATING
from kvhelpers.stats import (
    RESAMPLES,
    Estimate,
    TokenMetrics,
    auroc_difference,
    draws,
    percentile_ends,
    reliability,
)
from kvhelpers.stats.token_metrics import PRECISION_DRAWS

HORIZONS = (1, 5, 10, 32, 50)
SHARES = (0.25, 0.5, 0.75)  # of the training prompts, for the learning curve
COEFFICIENT_DRAWS = 40
SHUFFLES = 6  # of outcomes; a single one lies off 0.5 by chance


@dataclass(frozen=True)
class StudySettings:
    """``horizon`` in tokens, the number of ``folds``, ``families`` of features (`features.FAMILIES`), and the
    wanted rates of ``false_alarms``.

    Raises
    ------
    InputError : a setting that is not allowed.
    """

    horizon: int = 10
    folds: int = FOLDS
    families: tuple[str, ...] = MAIN
    false_alarms: tuple[float, ...] = RATES

    def __post_init__(self) -> None:
        for name in ("horizon", "folds"):
            if isinstance(value := getattr(self, name), bool) or not isinstance(value, int):
                raise InputError(f"{name} {value!r} is not allowed; it is a whole number")
        if self.horizon < 1:
            raise InputError(f"horizon {self.horizon} is below 1; it is a number of tokens")
        for family in self.families:
            if family not in FAMILIES:
                raise unknown_name("feature family", family, FAMILIES)
        rates = self.false_alarms
        if isinstance(rates, str) or not rates or not all(0 < rate < 1 for rate in rates):
            raise InputError(
                f"false_alarms {rates!r} are not allowed; they are shares of runs that end right, above 0 "
                "and below 1"
            )


class EventCounts(Shape):
    """How the runs of a task and a press ended for a predictor; ``immediate`` failures have no token at
    risk.
    """

    task: str
    press: str
    runs: int
    events: dict[Event, int]
    immediate: int


class Draws(Shape):
    """How often prompts are drawn: for the intervals of AUROC, Brier score and shares, of average precision,
    and of coefficients. All by ``seed``, as are the trees and the prompts that a learning curve takes; the
    shuffles of the outcomes have the seeds from 0 on.
    """

    usual: int
    precision: int
    coefficients: int
    seed: int


class Source(Shape):
    """An experiment that was read, what ran in it, and how many conditions were used."""

    experiment: str
    model: str
    task: str
    dtype: str
    conditions: int


class LeftOut(Shape):
    """A condition that was read and not used, because of the ``flags`` that take away its meaning."""

    experiment: str
    condition: str
    flags: tuple[str, ...]


class Runs(Shape):
    """What a study learned from. ``onsets`` are the quartiles of the failures' tokens."""

    sources: tuple[Source, ...]
    left_out: tuple[LeftOut, ...]
    runs: int
    prompts: int
    tokens: int
    failed: int
    onsets: tuple[float, float, float]
    events: tuple[EventCounts, ...]

    @property
    def experiments(self) -> tuple[str, ...]:
        """The names of the experiments."""
        return tuple(dict.fromkeys(source.experiment for source in self.sources))

    @property
    def models(self) -> tuple[str, ...]:
        """The models that ran."""
        return tuple(dict.fromkeys(source.model for source in self.sources))


class ReliabilityBin(Shape):
    """Mean predicted probability and observed share of onsets of ``n`` tokens, with its interval over
    prompts, if there is one.
    """

    predicted: float
    observed: float
    low: float | None
    high: float | None
    n: int


class Coefficient(Shape):
    """Log-odds per standard deviation of a feature, with the 95 % interval over draws of the prompts."""

    feature: str
    coefficient: float
    low: float
    high: float


class Elsewhere(Shape):
    """The proposed predictor on presses and tasks (of a model) that it has not seen, nor their prompts: all
    presses left out in turn, and by the press or task left out. Beside it, where all were seen: by task, and
    without the censored runs. By task there is nothing where there is one task only.
    """

    unseen_presses: TokenMetrics
    by_unseen_press: dict[str, TokenMetrics]
    by_unseen_task: dict[str, TokenMetrics]
    by_seen_task: dict[str, TokenMetrics]
    uncensored: TokenMetrics


class Ablations(Shape):
    """The logistic hazard ``without`` a family of features, with it ``alone``, and with more than the
    families: the token's number, the share removed, share and press.
    """

    without: dict[str, TokenMetrics]
    alone: dict[str, TokenMetrics]
    with_position: TokenMetrics
    with_share: TokenMetrics
    with_condition: TokenMetrics


class RightEnds(Shape):
    """Whether a run will do anything but end by itself with the right answer, told at each of its tokens: by
    predictor, single tokens and whole runs as in `Study`; and the proposed one by task (of a model), and
    among runs that end, right or wrong, alone.
    """

    methods: dict[str, TokenMetrics]
    runs_within: dict[str, Estimate | None]
    by_task: dict[str, TokenMetrics]
    among_ended: TokenMetrics
    ended_by_task: dict[str, TokenMetrics]


class Study(Shape):
    """What is known about predictors at the horizon and with the families of ``settings``, unless said
    otherwise.

    ``methods``, ``runs_within`` and ``alarms`` are by predictor: single tokens, whole runs of the same
    condition ranked by their highest score (`Evaluation.judge_runs`), and whole runs with a threshold.
    ``above`` is by baseline, and for the recurrent network: the differences of the proposed predictor's AUROC
    and the other's within condition and token, over the same draws of prompts; ``above_condition`` is that
    over all pairs to the baseline that knows share removed and press; ``caught_above`` those of the shares of
    failures caught, by baseline and wanted rate of false alarms. ``scrutiny`` is None where none was made.
    ``learning`` is by share of the training prompts; ``control`` has one entry per shuffle of the outcomes.
    ``reliability``, ``traces`` and ``missed`` are about the proposed predictor's out-of-fold scores;
    ``model`` is trained on all prompts.
    """

    provenance: StudyProvenance
    settings: StudySettings
    draws: Draws
    data: Runs
    methods: dict[str, TokenMetrics]
    runs_within: dict[str, Estimate | None]
    above: dict[str, Estimate | None]
    above_condition: Estimate | None
    by_horizon: dict[int, TokenMetrics]
    right_ends: RightEnds
    elsewhere: Elsewhere
    ablations: Ablations
    control: tuple[TokenMetrics, ...]
    learning: dict[float, TokenMetrics]
    alarms: dict[str, tuple[RunAlarms, ...]]
    caught_above: dict[str, tuple[Estimate | None, ...]]
    scrutiny: Scrutiny | None
    reliability: tuple[ReliabilityBin, ...]
    coefficients: tuple[Coefficient, ...]
    incidence: tuple[IncidenceCurve, ...]
    traces: tuple[RiskTrace, ...]
    missed: tuple[MissedFailure, ...]
    cost: Cost
    model: HazardModel

    def save(self, path: Path) -> Path:
        """Write the study as JSON."""
        return write_atomic(
            path,
            lambda temporary: temporary.write_text(sealed_text(self.model_dump_json()), encoding="utf-8"),
        )


def read_study(path: Path) -> Study:
    """Read a study written by `Study.save`. Raises InputError if the file is none, or was changed."""
    try:
        return Study.model_validate(unsealed(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"study file {relative(path)} is no study of predictors ({error!r})") from error


def make_study(
    risk: RiskSet,
    results: Sequence[ConditionResult],
    settings: StudySettings | None = None,
    command: str | None = None,
    scrutiny: Scrutiny | None = None,
    progress: bool = True,
) -> Study:
    """Compute everything for the proposed predictor and its baselines.

    ``results`` are the conditions that the risk set was read from: what was left out of it, and the cost of
    their runs. ``command`` is noted as what makes the study again, and ``scrutiny`` becomes a part of it.

    Raises
    ------
    InputError : too many folds for the prompts, or too little to learn from.
    """
    provenance, settings = study_provenance(command), settings or StudySettings()
    horizon, names = settings.horizon, family_names(*settings.families)
    evaluation, hazard = Evaluation(risk, horizon, settings.folds), proposed(horizon, settings.families)
    with tqdm(total=9, desc="hazard", unit="part", disable=not progress) as bar:
        scores = evaluation.scores(hazard)
        methods, runs_within, above, above_condition = _methods(evaluation, scores, names)
        bar.update()
        by_horizon = {horizon: methods[PROPOSED]} | {
            other: Evaluation(risk, other, settings.folds).judge(proposed(other, settings.families))
            for other in HORIZONS
            if other != horizon
        }
        bar.update()
        right_ends = _right_ends(risk, settings)
        bar.update()
        elsewhere = _elsewhere(evaluation, hazard, scores)
        bar.update()
        ablations = _ablations(evaluation, settings.families)
        bar.update()
        shuffled = (shuffle_outcomes(risk, seed) for seed in range(SHUFFLES))
        control = tuple(Evaluation(part, horizon, settings.folds).judge(hazard) for part in shuffled)
        bar.update()
        learning = {share: _with_share(evaluation, hazard, share) for share in SHARES}
        bar.update()
        alarms, caught_above = _alarms(risk, settings)
        bar.update()
        coefficients = _coefficients(risk, names, horizon)
        bar.update()
    model = fit(risk, horizon, names)
    return Study(
        provenance=provenance,
        settings=settings,
        draws=Draws(usual=RESAMPLES, precision=PRECISION_DRAWS, coefficients=COEFFICIENT_DRAWS, seed=SEED),
        data=describe_runs(risk, results),
        methods=methods,
        runs_within=runs_within,
        above=above,
        above_condition=above_condition,
        by_horizon=dict(sorted(by_horizon.items())),
        right_ends=right_ends,
        elsewhere=elsewhere,
        ablations=ablations,
        control=control,
        learning=learning,
        alarms=alarms,
        caught_above=caught_above,
        scrutiny=scrutiny,
        reliability=[
            ReliabilityBin(**row)
            for row in reliability(scores, evaluation.label, risk.prompts).to_dict("records")
        ],
        coefficients=coefficients,
        incidence=incidence_curves(risk.runs),
        traces=risk_traces(risk, scores),
        missed=missed_failures(risk, scores),
        cost=measure_cost(model, results),
        model=model,
    )


def _methods(
    evaluation: Evaluation, scores: np.ndarray, names: tuple[str, ...]
) -> tuple[dict[str, TokenMetrics], dict[str, Estimate | None], dict[str, Estimate | None], Estimate | None]:
    """Metrics of all predictors, of single tokens and of whole runs, by how much the proposed one is above
    each baseline and the recurrent network within condition and token, and above the one that knows the
    condition over all pairs.
    """
    risk, horizon = evaluation.risk, evaluation.horizon
    trees = evaluation.scores(BoostedTrees(horizon, names))
    compared = {
        PROPOSED: scores,
        TREES: trees,
        AVERAGE: averaged(scores, trees),
        RECURRENT: evaluation.scores(RecurrentHazard(horizon, names)),
    }
    others = {name: evaluation.scores(other) for name, other in baselines(risk, horizon).items()}
    every = compared | others
    methods = {name: evaluation.metrics(values) for name, values in every.items()}
    runs_within = {name: evaluation.judge_runs(values) for name, values in every.items()}

    def above(other: np.ndarray, strata: np.ndarray) -> Estimate | None:
        return auroc_difference(scores, other, evaluation.label, risk.prompts, strata)

    rivals = {RECURRENT: compared[RECURRENT]} | others
    within = {name: above(other, evaluation.strata) for name, other in rivals.items()}
    return methods, runs_within, within, above(others[CONDITION], np.zeros(len(scores)))


def _alarms(
    risk: RiskSet, settings: StudySettings
) -> tuple[dict[str, tuple[RunAlarms, ...]], dict[str, tuple[Estimate | None, ...]]]:
    """Alarms of the proposed predictor and the informed baselines, and how many more failures the proposed
    one catches than each baseline.
    """
    rates = settings.false_alarms
    informed = _informed(risk, settings.horizon, settings.families)
    at = {name: alarm_tokens(risk, other, settings.folds, rates) for name, other in informed.items()}
    alarms = {name: tuple(judge_alarms(risk, rates, tokens)) for name, tokens in at.items()}
    own = at.pop(PROPOSED)
    above = {
        name: tuple(caught_difference(risk, *pair) for pair in zip(own, other, strict=True))
        for name, other in at.items()
    }
    return alarms, above


def _informed(risk: RiskSet, horizon: int | None, families: Sequence[str]) -> dict[str, Predictor]:
    """The proposed predictor and the baselines that know something: a constant tells nothing apart."""
    rivals = baselines(risk, horizon)
    del rivals[BASE_RATE]
    return {PROPOSED: proposed(horizon, families)} | rivals


def _right_ends(risk: RiskSet, settings: StudySettings) -> RightEnds:
    """The other question: not when a loop or an overrun begins, but whether the run ends right."""
    evaluation = Evaluation(risk, None, settings.folds)
    informed = _informed(risk, None, settings.families)
    scores = {name: evaluation.scores(predictor) for name, predictor in informed.items()}
    task, ended = risk.runs["task"].to_numpy()[risk.run], risk.has_event(Event.END)[risk.run]
    own, tasks = scores[PROPOSED], list(dict.fromkeys(task.tolist()))
    return RightEnds(
        methods={name: evaluation.metrics(values) for name, values in scores.items()},
        runs_within={name: evaluation.judge_runs(values) for name, values in scores.items()},
        by_task={name: evaluation.metrics(own, task == name) for name in tasks},
        among_ended=evaluation.metrics(own, ended),
        ended_by_task={name: evaluation.metrics(own, ended & (task == name)) for name in tasks},
    )


def _elsewhere(evaluation: Evaluation, hazard: Predictor, seen: np.ndarray) -> Elsewhere:
    """The proposed predictor where a press or a task was left out; its scores where all were ``seen``, on
    parts of the runs.
    """
    risk = evaluation.risk
    press, task = (risk.runs[name].to_numpy()[risk.run] for name in ("press", "task"))
    compressed, tasks = press != NONE, sorted(set(task))
    without_press = scores_of(risk, hazard, press_splits(risk.runs, evaluation.folds))
    without_task = scores_of(risk, hazard, task_splits(risk.runs, evaluation.folds))
    several = tasks if len(tasks) > 1 else []
    return Elsewhere(
        unseen_presses=evaluation.metrics(without_press, compressed),
        by_unseen_press={
            name: evaluation.metrics(without_press, press == name) for name in sorted(set(press[compressed]))
        },
        by_unseen_task={name: evaluation.metrics(without_task, task == name) for name in several},
        by_seen_task={name: evaluation.metrics(seen, task == name) for name in several},
        uncensored=evaluation.metrics(seen, ~risk.has_event(Event.CENSORED)[risk.run]),
    )


def _ablations(evaluation: Evaluation, families: Sequence[str]) -> Ablations:
    """The logistic hazard with other features."""

    def judge(*names: str) -> TokenMetrics:
        return evaluation.judge(LogisticHazard(evaluation.horizon, names))

    every = family_names(*families)
    others = {family: [other for other in families if other != family] for family in families}
    return Ablations(
        without={family: judge(*family_names(*rest)) for family, rest in others.items() if rest},
        alone={family: judge(*family_names(family)) for family in families},
        with_position=judge(*family_names(*dict.fromkeys([*families, "position"]))),
        with_share=judge(*every, "removed"),
        with_condition=judge(*every, "removed", *press_names(evaluation.risk)),
    )


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
    outcome = ["event", "time", "failed", "correct", "stopped"]
    runs[outcome] = risk.runs[outcome].to_numpy()[order]
    runs = runs.astype({"time": int, "failed": bool, "correct": bool, "stopped": bool})
    shuffled = RiskSet(runs, risk.run, risk.step, risk.features, risk.names)
    return shuffled.part(shuffled.before_event)


def _with_share(evaluation: Evaluation, hazard: Predictor, share: float) -> TokenMetrics:
    """The same test tokens, with a share of the training prompts only."""
    risk = evaluation.risk
    splits = [with_share(split, risk.runs, share) for split in evaluation.splits]
    return evaluation.metrics(scores_of(risk, hazard, splits))


def _coefficients(risk: RiskSet, names: tuple[str, ...], horizon: int) -> tuple[Coefficient, ...]:
    """Logistic coefficients with intervals over draws of the prompts, largest first."""
    label, features = risk.label(horizon), risk.columns(names)
    known = np.flatnonzero(~np.isnan(label))
    prompts, codes = np.unique(risk.prompts[known].astype(str), return_inverse=True)
    fitted = fit_numbers(features[known], label[known]).coefficient
    drawn = []
    for weights in draws(len(prompts), SEED)[:COEFFICIENT_DRAWS]:
        again = np.repeat(known, weights[codes].astype(int))
        drawn.append(fit_numbers(features[again], label[again]).coefficient)
    low, high = percentile_ends(np.array(drawn), len(prompts))
    return tuple(
        Coefficient(feature=names[k], coefficient=fitted[k], low=low[k], high=high[k])
        for k in np.argsort(-np.abs(fitted), kind="stable")
    )


def describe_runs(risk: RiskSet, results: Sequence[ConditionResult]) -> Runs:
    """What a risk set holds, and which of the conditions that it was read from it leaves out."""
    runs = risk.runs
    immediate = runs["failed"].to_numpy() & (np.bincount(risk.run, minlength=len(runs)) == 0)
    counts = []
    for (task, press), part in runs.groupby(["task", "press"], sort=False):
        counts.append(
            EventCounts(
                task=task,
                press=press,
                runs=len(part),
                events={event: int((part["event"] == event).sum()) for event in Event},
                immediate=int(immediate[part.index].sum()),
            )
        )
    quartiles = np.percentile(runs["time"][runs["failed"]], [25, 50, 75])
    return Runs(
        sources=_sources(results),
        left_out=tuple(
            LeftOut(
                experiment=r.condition.experiment,
                condition=r.label,
                flags=[name for name in r.summary.flags if name in INVALIDATING],
            )
            for r in results
            if r.is_invalid
        ),
        runs=len(runs),
        prompts=runs["prompt"].nunique(),
        tokens=len(risk.run),
        failed=int(runs["failed"].sum()),
        onsets=tuple(map(float, quartiles)),
        events=tuple(counts),
    )


def _sources(results: Sequence[ConditionResult]) -> tuple[Source, ...]:
    """What ran, by experiment, model, task and precision; without the conditions that are left out."""
    used = Counter(
        (r.condition.experiment, r.condition.model, r.condition.task, r.provenance.machine.dtype)
        for r in results
        if not r.is_invalid
    )
    return tuple(
        Source(experiment=experiment, model=model, task=task, dtype=dtype, conditions=count)
        for (experiment, model, task, dtype), count in used.items()
    )
