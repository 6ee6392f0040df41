"""What the notebooks share: the check of the parameters that papermill injected, reading results."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvhelpers.errors import InputError, unknown_name
from kvhelpers.experiment.condition import Condition, make_condition
from kvhelpers.experiment.grid import finished_results
from kvhelpers.experiment.identity import check_here
from kvhelpers.experiment.results import ConditionResult
from kvhelpers.paths import relative

MARK = "# Parameters"
WRITE_LOG = "write_log"  # a parameter of the notebook, not of the condition


def assigned_names(source: str) -> list[str]:
    """Names that a parameters cell assigns."""
    targets = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign):
            targets += node.targets
        elif isinstance(node, ast.AnnAssign):
            targets.append(node.target)
    return [target.id for target in targets if isinstance(target, ast.Name)]


def condition_from_parameters(namespace: Mapping[str, Any]) -> Condition:
    """Build and check the condition of a notebook's parameters.

    Parameters
    ----------
    namespace : the notebook's ``globals()``, with IPython's history ``In``. Parameters cells start with
        ``# Parameters``, as papermill's injected one does; a name that one of them assigns and that is no
        parameter is refused (papermill itself only warns). Runners that keep no history (nbval) inject
        nothing either.

    Raises
    ------
    InputError : one sentence about the first bad parameter.
    """
    values = checked_parameters(namespace, (*Condition.model_fields, WRITE_LOG))
    write_log = values.pop(WRITE_LOG)
    if not isinstance(write_log, bool):
        raise InputError(
            f"{WRITE_LOG} {write_log!r} is not allowed; it is True or False "
            f"(papermill: -y '{WRITE_LOG}: false')"
        )
    return check_here(make_condition(values))


@dataclass(frozen=True)
class GuardParameters:
    """The parameters of notebook 04: those of its condition, and those of its policy as
    `guard.one_run.run_policy` calls them.
    """

    condition: dict[str, Any]
    policy: dict[str, Any]


def guard_parameters(namespace: Mapping[str, Any]) -> GuardParameters:
    """Notebook 04's parameters, from its ``globals()``. Raises InputError as `checked_parameters`."""
    of_policy = {"canary_tokens": "canary_tokens", "roll_back": "back", "fixed_token": "fixed_token"}
    of_policy["relax"] = "factor"
    others = ("policy", "threshold", "hazard_study", "actions_study", "live_study", "write_logs")
    of_condition = ("press", "ratio", "press_kwargs", "model", "task", "data_file", "n_prompts")
    of_condition += ("n_fewshot", "max_new_tokens", "seed")
    values = checked_parameters(namespace, (*of_condition, *of_policy, *others))
    policy = {argument: values[name] for name, argument in of_policy.items()}
    if values["policy"] == "force_answer":
        from kvhelpers.guard.policies import answer_mark  # needs torch

        policy["mark"] = answer_mark(values["model"])
    return GuardParameters({name: values[name] for name in of_condition}, policy)


def checked_parameters(namespace: Mapping[str, Any], known: Sequence[str]) -> dict[str, Any]:
    """A notebook's parameters by name, taken from its namespace as `condition_from_parameters` does: all
    ``known`` and no other.

    Raises
    ------
    InputError : a parameters cell assigns a name that is not known, or one that is known is missing.
    """
    names = [name for source in _latest_parameters(namespace["In"], known) for name in assigned_names(source)]
    for name in names:
        if name not in known:
            raise unknown_name("parameter", name, known)
    missing = [name for name in known if name not in namespace]
    if missing:
        raise InputError(
            f"parameter {missing[0]!r} is missing; run the parameters cell first, with all of its names"
        )
    return {name: namespace[name] for name in known}


def read_results(experiment: str, root: Path) -> list[ConditionResult]:
    """The experiment's finished conditions below ``root``; prints how many were read from where.

    Raises
    ------
    InputError : there is none, or one that cannot be read; a name that is none.
    """
    results = finished_results(experiment, root)
    conditions = "condition" if len(results) == 1 else "conditions"
    print(f"read {len(results)} {conditions} of {experiment} from {relative(root)}")
    return results


def _latest_parameters(executed: Sequence[str], known: Sequence[str]) -> list[str]:
    """The parameters cells that count: the notebook's own, last run, and those injected after it; not earlier
    attempts.
    """
    sources = []
    for source in reversed(executed):
        if source.startswith(MARK):
            sources.append(source)
            if set(known) <= set(assigned_names(source)):
                break
        elif sources:
            break
    return sources
