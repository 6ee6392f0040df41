"""What each family of inner features adds to what a run shows from outside, within one model and task, on
prompts not seen: an `InnerStudy`, as data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from kvhelpers.errors import InputError
from kvhelpers.experiment.results import ConditionResult
from kvhelpers.experiment.seal import sealed_text, unsealed
from kvhelpers.hazard.baselines import MAIN, PROPOSED, TREES, family_names
from kvhelpers.hazard.evaluation import Evaluation
from kvhelpers.hazard.inner import INNER_FAMILIES, InnerSet, read_inner_set
from kvhelpers.hazard.predictors import BoostedTrees, LogisticHazard
from kvhelpers.hazard.provenance import StudyProvenance, study_provenance
from kvhelpers.hazard.splits import Split, press_splits
from kvhelpers.paths import relative, write_atomic
from kvhelpers.records import Shape
from kvhelpers.stats import Estimate, auroc_difference, auroc_of_pairs

OUTSIDE = "outside"  # the features of the run's outside alone
ORACLE = "oracle"
ALL = "all but the oracle"
KINDS = {PROPOSED: LogisticHazard, TREES: BoostedTrees}


class Added(Shape):
    """With a family added to the outside: AUROC within condition and token, ``gain`` over the outside on the
    same draws, and AUROC of whole runs within a condition.
    """

    family: str
    features: int
    within: Estimate | None
    gain: Estimate | None
    runs: Estimate | None


class Asked(Shape):
    """One question to the runs of one experiment: an onset within ``horizon`` tokens or, without, an end that
    is not right; by kind of predictor, the families; and the same, of the proposed kind, on presses that it
    has not seen, where there are several.
    """

    experiment: str
    model: str
    task: str
    horizon: int | None
    conditions: tuple[str, ...]
    left_out: tuple[str, ...]
    runs: int
    failures: int
    not_right: int
    prompts: int
    tokens: int
    off: float
    parted: int
    added: dict[str, tuple[Added, ...]]
    press_unseen: tuple[Added, ...]

    @property
    def has_pairs(self) -> bool:
        """Whether some tokens of the same condition and number have different outcomes."""
        return self.added[PROPOSED][0].within is not None


class InnerStudy(Shape):
    """All questions, and where the study comes from."""

    asked: tuple[Asked, ...]
    provenance: StudyProvenance

    def save(self, path: Path) -> Path:
        """Write the study as JSON."""
        text = sealed_text(self.model_dump_json())
        return write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_inner_study(path: Path) -> InnerStudy:
    """Read a study written by `InnerStudy.save`. Raises InputError if the file is none, or was changed."""
    try:
        return InnerStudy.model_validate(unsealed(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"study file {relative(path)} is no study of inner signals ({error!r})") from error


@dataclass(frozen=True)
class Gaining:
    """The families, without the oracle, whose gain's interval lies above zero (or below) in the proposed
    predictor, and those of the former that do so in the boosted trees too; those that do so in the trees
    alone; the best predictor that is no
    oracle, by its AUROC in the proposed one; and the oracle.
    """

    above: tuple[str, ...]
    above_in_both: tuple[str, ...]
    trees_alone: tuple[str, ...]
    below: tuple[str, ...]
    best: Added
    oracle: Added


def gaining(asked: Asked) -> Gaining:
    """Which families add something to a question."""
    proposed = [one for one in asked.added[PROPOSED] if one.family != ORACLE]
    in_trees = [one for one in asked.added[TREES] if one.family != ORACLE]
    trees = [one.family for one in in_trees if one.gain and (one.gain.low or 0) > 0]
    above = tuple(one.family for one in proposed if one.gain and (one.gain.low or 0) > 0)
    return Gaining(
        above=above,
        above_in_both=tuple(family for family in above if family in trees),
        trees_alone=tuple(family for family in trees if family not in above),
        below=tuple(one.family for one in proposed if one.gain and (one.gain.high or 0) < 0),
        best=max(proposed, key=lambda one: one.within.value if one.within else 0.0),
        oracle=next(one for one in asked.added[PROPOSED] if one.family == ORACLE),
    )


def make_inner_study(
    experiments: Sequence[Sequence[ConditionResult]], horizon: int, folds: int, command: str | None = None
) -> InnerStudy:
    """Ask the runs of some experiments, each by itself, when a failure begins and whether they end right.

    Raises
    ------
    InputError : as `inner.read_inner_set`.
    """
    made_by = study_provenance(command)
    sets = [(results, read_inner_set(results)) for results in experiments]
    asked = []
    with tqdm(total=2 * len(sets), desc="inner features", unit="question") as bar:
        for results, inner in sets:
            for question in (horizon, None):
                asked.append(_ask(results, inner, question, folds))
                bar.update()
    return InnerStudy(asked=tuple(asked), provenance=made_by)


def _ask(results: Sequence[ConditionResult], inner: InnerSet, horizon: int | None, folds: int) -> Asked:
    evaluation = Evaluation(inner.risk, horizon, folds)
    runs, condition = inner.risk.runs, results[0].condition
    by_press = press_splits(runs, folds)
    return Asked(
        experiment=condition.experiment,
        model=condition.model,
        task=condition.task,
        horizon=horizon,
        conditions=inner.conditions,
        left_out=inner.left_out,
        runs=len(runs),
        failures=int(runs["failed"].sum()),
        not_right=int((~inner.risk.ended(right=True) & ~runs["stopped"]).sum()),
        prompts=runs["prompt"].nunique(),
        tokens=len(inner.risk.run),
        off=inner.off,
        parted=inner.parted,
        added={kind: _added(inner, evaluation, kind, evaluation.splits) for kind in KINDS},
        press_unseen=_added(inner, evaluation, PROPOSED, by_press) if by_press else (),
    )


def _added(inner: InnerSet, evaluation: Evaluation, kind: str, splits: Sequence[Split]) -> tuple[Added, ...]:
    outside = family_names(*MAIN)
    families = {
        OUTSIDE: outside,
        **{name: (*outside, *names) for name, names in INNER_FAMILIES.items()},
        ALL: (*outside, *(n for name, names in INNER_FAMILIES.items() if name != ORACLE for n in names)),
    }
    scores = {name: np.full(len(inner.risk.run), np.nan) for name in families}
    for split in splits:
        risk, test = inner.with_components(split), split.test[inner.risk.run]
        tested = risk.part(test)
        for name, names in families.items():
            predictor = KINDS[kind](evaluation.horizon, names)
            scores[name][test] = predictor.fit(risk, split.train[risk.run]).score(tested)
    label, prompts, strata = evaluation.label, inner.risk.prompts, evaluation.strata
    return tuple(
        Added(
            family=name,
            features=len(families[name]) - (len(outside) if name != OUTSIDE else 0),
            within=auroc_of_pairs(values, label, prompts, strata),
            gain=None
            if name == OUTSIDE
            else auroc_difference(values, scores[OUTSIDE], label, prompts, strata),
            runs=evaluation.judge_runs(values),
        )
        for name, values in scores.items()
    )
