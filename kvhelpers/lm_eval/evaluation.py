"""Run tasks of lm-evaluation-harness under a press: its own results, and this project's beside them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from lm_eval import simple_evaluate
from lm_eval.api.group import Group
from lm_eval.api.task import Task
from lm_eval.loggers import EvaluationTracker
from lm_eval.tasks import TaskManager

from kvhelpers.errors import InputError, shown
from kvhelpers.experiment.condition import check_name, make_condition
from kvhelpers.experiment.results import ConditionResult
from kvhelpers.lm_eval.model import refuse_context
from kvhelpers.lm_eval.recorded import Prompting, RecordedLM, experiment_name
from kvhelpers.paths import harness_dir, user_path

NAME = "lm-eval"


@dataclass(frozen=True)
class Evaluation:
    """What came of it: the harness's results, where its files are, and a condition for each task."""

    harness: dict[str, Any]
    folder: Path
    conditions: list[ConditionResult]

    def table(self) -> pd.DataFrame:
        """The harness's numbers, a row per task or group, metric and filter, with the standard error."""
        rows = []
        for task, values in self.harness["results"].items():
            for name, value in values.items():
                metric, comma, by = name.partition(",")
                if comma and not metric.endswith("_stderr"):
                    row = {"Task": task, "Examples": self.harness["n-shot"].get(task), "Filter": by}
                    error = values.get(f"{metric}_stderr,{by}")
                    rows.append(row | {"Metric": metric, "Value": value, "Std. error": error})
        return pd.DataFrame(rows)


def evaluate(
    tasks: Sequence[str],
    parameters: dict[str, Any],
    prompting: Prompting = Prompting(),  # noqa: B008
    *,
    name: str = NAME,
    num_fewshot: int | None = None,
    limit: float | None = None,
    gen_kwargs: str | None = None,
    include_path: str | None = None,
    command: str | None = None,
) -> Evaluation:
    """Run tasks; a second call goes on where a killed one was, and runs nothing that is finished.

    Parameters
    ----------
    tasks : names of tasks or groups, or paths of YAML files.
    parameters : of `model.CompressedLM`.
    prompting : chat template, examples as turns, system instruction.
    name : results go to the experiment ``<name>-<task>``, the harness's own files to ``<name>/harness``.
    num_fewshot, limit, gen_kwargs, include_path : as the harness takes them. What a YAML file names as
        ``!function`` is run.
    command : what is noted as the command of the results.

    Raises
    ------
    InputError : a parameter that is not allowed; a task that is not there, cannot be loaded, or does not
        generate answers; results of another configuration under the same name.
    """
    check_name(name)
    refuse_context(parameters.get("compress"))
    make_condition({key: value for key, value in parameters.items() if value is not None})
    items, by_name, manager = _loaded(tasks, include_path)
    for task in by_name:
        check_name(experiment_name(name, task))
    lm = RecordedLM(by_name, name, prompting, **parameters)
    tracker = EvaluationTracker(output_path=str(harness_dir(name)))
    results = simple_evaluate(
        model=lm,
        model_args=lm.parameters,
        tasks=items,
        num_fewshot=num_fewshot,
        batch_size=lm.parameters["batch_size"],
        device=lm.lm.device,
        limit=limit,
        gen_kwargs=gen_kwargs,
        evaluation_tracker=tracker,
        system_instruction=prompting.system_instruction,
        apply_chat_template=prompting.apply_chat_template,
        fewshot_as_multiturn=prompting.apply_chat_template and prompting.fewshot_as_multiturn,
        task_manager=manager,
    )
    samples = results.pop("samples")
    conditions = lm.finish(samples, command)
    tracker.save_results_aggregated(results=results, samples=samples)
    for task in samples:
        tracker.save_results_samples(task_name=task, samples=samples[task])
    return Evaluation(results, harness_dir(name), conditions)


def _loaded(
    names: Sequence[str], include_path: str | None
) -> tuple[list[Task | Group], dict[str, Task], TaskManager]:
    """The tasks and groups asked for, all tasks in them by name, and what loaded them."""
    folder = None if include_path is None else user_path("include_path", include_path)
    if folder is not None and not folder.is_dir():
        raise InputError(
            f"include_path {shown(include_path)} is no folder; it is one with YAML files of tasks"
        )
    manager = TaskManager(include_path=folder)
    items = [item for name in names for item in _items(manager, name)]
    try:
        by_name = manager.load(items)["tasks"]
    except ValueError as error:
        raise InputError(f"tasks {', '.join(names)} are not allowed: {error}") from error
    for name, task in by_name.items():
        _check(name, task)
    return items, by_name, manager


def _items(manager: TaskManager, name: str) -> Iterator[Task | Group]:
    if name not in manager.task_index and not user_path("tasks", name).is_file():
        near = difflib.get_close_matches(name, manager.all_tasks, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(
            f"tasks {shown(name)} is unknown{hint} (allowed: what 'lm-eval ls tasks' lists, what lies below "
            "include_path, or a YAML file)"
        )
    try:
        loaded = manager.load([name])
    except Exception as error:  # a task's data come from anywhere
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"task {name!r} cannot be loaded: {reason}") from error
    groups = loaded.get("groups", {})
    yield from [groups[name]] if name in groups else loaded["tasks"].values()


def _check(name: str, task: Task) -> None:
    if task.OUTPUT_TYPE != "generate_until":
        raise InputError(
            f"task {name!r} is not supported: its output_type is {task.OUTPUT_TYPE}, and only generated "
            "answers are run under a press (generate_until)"
        )
    if getattr(task, "UNSAFE_CODE", False):
        raise InputError(f"task {name!r} is not supported: it runs code that the model writes")
    if getattr(task, "MULTIMODAL", False):
        raise InputError(f"task {name!r} is not supported: it needs more than text")
