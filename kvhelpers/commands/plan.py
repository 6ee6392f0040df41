"""What a run of an experiment would do, and how long it may take, without doing it."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pandas as pd

from kvhelpers.experiment.checkpoint import Checkpoint
from kvhelpers.experiment.condition import Condition
from kvhelpers.experiment.grid import Experiment
from kvhelpers.experiment.results import find_finished
from kvhelpers.experiment.run import (
    check_before_loading,
    generate_prompts,
    load_for,
    prompts_of,
    rows_together,
)

PROBE_TOKENS, PROBE_ROWS = 8, 4


def plan(experiment: Experiment) -> pd.DataFrame:
    """One row per condition: ``Condition``, ``Prompts`` of the condition, ``Done`` (of them, in this or an
    earlier run).

    Raises
    ------
    InputError : as `run.run_experiment` would.
    """
    rows = []
    for condition in experiment.conditions():
        check_before_loading(condition)
        done = condition.n_prompts if find_finished(condition) else len(Checkpoint(condition).finished())
        rows.append({"Condition": condition.label(), "Prompts": condition.n_prompts, "Done": done})
    return pd.DataFrame(rows)


def estimate(experiment: Experiment, table: pd.DataFrame) -> tuple[float, str]:
    """Seconds that the prompts still to do may take on one worker like this machine, and what the estimate is
    made of.

    From the experiment's own finished conditions if there are any; else from a short run of uncompressed
    prompts, as if each answer took all its tokens: an upper bound for most presses.
    """
    left = int((table["Prompts"] - table["Done"]).sum())
    if not left:
        return 0.0, "nothing is left to do"
    conditions = experiment.conditions()
    finished = [result for condition in conditions if (result := find_finished(condition))]
    if finished:
        per_prompt = sum(result.seconds for result in finished) / sum(result.summary.n for result in finished)
        return left * per_prompt, f"{per_prompt:.1f} s a prompt in the {len(finished)} finished conditions"
    per_prompt = _probe(conditions)
    at_most = f"at most, if every answer takes all its tokens: {per_prompt:.1f} s a prompt in a short test"
    return left * per_prompt, at_most


def plan_sentence(experiment: Experiment, table: pd.DataFrame) -> str:
    """The plan in one sentence."""
    seconds, how = estimate(experiment, table)
    missing = table["Prompts"] - table["Done"]
    return (
        f"{(missing > 0).sum()} of {len(table)} conditions with {missing.sum()} prompts to do, about "
        f"{seconds / 60:.0f} min on one worker ({how})."
    )


def _probe(conditions: Sequence[Condition]) -> float:
    """Seconds a prompt of a small batch takes, from its prefill and a few steps."""
    condition = conditions[0].uncompressed()
    lm = load_for(condition)
    prompts = prompts_of(condition, lm)
    rows = min(len(prompts), rows_together(condition, lm, prompts), PROBE_ROWS)
    seconds = []
    for tokens in (1, 1 + PROBE_TOKENS):
        few = condition.model_copy(update={"max_new_tokens": tokens})
        started = time.monotonic()
        for _ in generate_prompts(few, lm, prompts[:rows], rows):
            pass
        seconds.append(time.monotonic() - started)
    prefill, step = seconds[0], max(0.0, seconds[1] - seconds[0]) / PROBE_TOKENS
    return (prefill + step * (condition.max_new_tokens - 1)) / rows
