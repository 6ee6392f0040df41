"""The same model, which also leaves this project's results files of what it runs."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import Task
from tqdm import tqdm

from kvhelpers.experiment.checkpoint import Checkpoint
from kvhelpers.experiment.condition import Condition
from kvhelpers.experiment.plain import plain_hash
from kvhelpers.experiment.results import ConditionResult, check_same_experiment, find_finished
from kvhelpers.experiment.run import finish_condition, refuse_other_prompts, run_prompts
from kvhelpers.lm_eval.model import CompressedLM, Decoding
from kvhelpers.paths import relative
from kvhelpers.tasks.harness import MARKING, PREFIX, harness_reference
from kvhelpers.tasks.prompts import Prompt

# of a task's configuration: what its marks depend on
MARKED_BY = (
    "filter_list",
    "metric_list",
    "process_results",
    "doc_to_target",
    "doc_to_choice",
    "process_docs",
)
ADDRESS = re.compile(" at 0x[0-9a-fA-F]+")  # in what Python writes of an object


@dataclass(frozen=True)
class Prompting:
    """How the harness makes prompts, in its words."""

    apply_chat_template: bool = False
    fewshot_as_multiturn: bool = True
    system_instruction: str | None = None


class RecordedLM(CompressedLM):
    """A `CompressedLM` that saves each finished prompt, goes on where a killed one was, and writes a
    condition for each task into the experiment ``<name>-<task>``.

    Parameters
    ----------
    tasks : the harness's tasks by name.
    name : what the experiments' names begin with.
    prompting : how the prompts are made.
    others : parameters of `CompressedLM`.
    """

    def __init__(self, tasks: Mapping[str, Task], name: str, prompting: Prompting, **others: Any):
        self.tasks, self.name, self.prompting = tasks, name, prompting
        self.conditions: dict[str, tuple[Condition, list[Prompt]]] = {}
        super().__init__(**others)

    def prompt(self, request: Instance) -> Prompt:
        """A request as a prompt, with the document's question and its right answer."""
        bare, task = super().prompt(request), self.tasks[request.task_name]
        question, target = task.doc_to_text(request.doc), task.doc_to_target(request.doc)
        return Prompt(bare.id, str(question), harness_reference(target), [], bare.token_ids, bare.opening)

    def values(self, task: str, prompts: Sequence[Prompt], decoding: Decoding) -> dict[str, Any]:
        """The parameters of a task's condition, with its few-shot examples and its experiment."""
        values, prompting = super().values(task, prompts, decoding), self.prompting
        asked = {"apply_chat_template": prompting.apply_chat_template}
        if prompting.system_instruction is not None:
            asked["system_instruction"] = prompting.system_instruction
        return values | {
            "experiment": experiment_name(self.name, task),
            "task_kwargs": values["task_kwargs"] | asked | {MARKING: marking_hash(self.tasks[task])},
            "n_fewshot": self.tasks[task].get_config("num_fewshot") or 0,
            "multiturn": prompting.apply_chat_template and prompting.fewshot_as_multiturn,
        }

    def run(self, condition: Condition, prompts: list[Prompt], bar: tqdm) -> list[str]:
        """The prompts' texts, of this or an earlier run; ``bar`` counts those that are saved."""
        self.conditions[condition.task.removeprefix(PREFIX)] = condition, prompts
        if (finished := find_finished(condition)) is not None:
            refuse_other_prompts(finished.records, prompts, relative(finished.path))
            bar.update(len(prompts))
            return [record.text for record in finished.records]
        check_same_experiment(condition)
        checkpoint = Checkpoint(condition)
        checkpoint.forget_errored()
        bar.update(len(checkpoint.finished()))
        for _ in run_prompts(condition, self.lm, prompts=prompts):
            bar.update()
        return [record.text for record, _ in checkpoint.load()]

    def finish(self, samples: Mapping[str, Sequence[Mapping]], command: str | None) -> list[ConditionResult]:
        """Write the results of the conditions that were run.

        ``samples`` are the harness's own, by task: a document's metrics under one filter each; ``command`` is
        what ran them.
        """
        results = []
        for task, (condition, prompts) in self.conditions.items():
            marks = marks_by_document(self.tasks[task], samples[task])
            documents = (prompt.id.removeprefix(f"{task}/").partition("/")[0] for prompt in prompts)
            given = [marks[document] for document in documents]
            finished = find_finished(condition)
            results.append(finished or finish_condition(condition, command, [], given))
        return results


def experiment_name(name: str, task: str) -> str:
    """The experiment of a task: a task's name may have characters that no experiment's has."""
    return f"{name}-{re.sub('[^A-Za-z0-9._-]+', '-', task)}"


def marking_hash(task: Task) -> str:
    """Hex SHA-256 of how a task marks answers: its filters, metrics and version, and the files of the
    functions and classes that they name and of its own class. The harness's version is in the identity by
    itself.
    """
    marking = {name: getattr(task.config, name) for name in MARKED_BY}
    by_class = {"version": task.VERSION, "class": type(task).process_results}
    return plain_hash(_spelt_out(marking | by_class))


def _spelt_out(value: Any) -> Any:
    """A value as JSON can keep it and every process spells it: a function by the text of the file that it is
    from, a class by those of itself and its bases.
    """
    if isinstance(value, Mapping):
        return {str(key): _spelt_out(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_spelt_out(inner) for inner in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_spelt_out(inner) for inner in value), key=repr)
    if isinstance(value, partial):
        return ["partial", *map(_spelt_out, (value.func, value.args, value.keywords))]
    if isinstance(value, type):
        return [value.__qualname__, *_class_texts(value)]
    if code := getattr(inspect.unwrap(value), "__code__", None):
        return [code.co_qualname, Path(code.co_filename).read_text(encoding="utf-8")]
    if isinstance(value, str | int | float | None):
        return value
    text = ADDRESS.sub("", repr(value))
    return text if text == repr(value) else [text, _spelt_out(type(value))]


def _class_texts(cls: type) -> list[str]:
    """The text of each file that a class and its bases are from, but for Python's own."""
    modules = (base.__module__ for base in cls.__mro__)
    others = [name for name in modules if name.partition(".")[0] not in sys.stdlib_module_names]
    files = dict.fromkeys(getattr(sys.modules.get(name), "__file__", None) for name in others)
    return [Path(file).read_text(encoding="utf-8") for file in files if file and file.endswith(".py")]


def marks_by_document(task: Task, samples: Sequence[Mapping]) -> dict[str, dict[str, float]]:
    """What the harness gave each document's answer, by ``metric,filter``: metrics of one answer, of which
    more is better.
    """
    better = task.higher_is_better()
    marks: dict[str, dict[str, float]] = {}
    for sample in samples:
        of_document = marks.setdefault(str(sample["doc_id"]), {})
        for metric in sample["metrics"]:
            value = sample[metric]
            if isinstance(value, Real) and better.get(metric, True):
                of_document[f"{metric},{sample['filter']}"] = float(value)
    return marks
