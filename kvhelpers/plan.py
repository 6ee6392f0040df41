"""What a run of an experiment would do, and how long it may take, without doing it."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pandas as pd

from kvhelpers.cell import cell_prompts, generate_prompts, load_for, rows_together
from kvhelpers.config import CellConfig
from kvhelpers.experiment import Experiment
from kvhelpers.results import Checkpoint, find_finished

PROBE_TOKENS = 8


def plan(experiment: Experiment) -> pd.DataFrame:
    """One row per cell: ``Cell``, ``Prompts`` of the cell, ``Done`` (of them, in this or an earlier run).

    Raises
    ------
    InputError : as `runner.run_experiment` would.
    """
    rows = []
    for config in experiment.configs():
        done = config.n_prompts if find_finished(config) else len(Checkpoint(config).finished())
        rows.append({"Cell": config.label(), "Prompts": config.n_prompts, "Done": done})
    return pd.DataFrame(rows)


def estimate(experiment: Experiment, table: pd.DataFrame) -> tuple[float, str]:
    """Seconds that the prompts still to do may take on one worker like this machine, and what the estimate is made of.

    From the experiment's own finished cells if there are any; else from a short run of uncompressed prompts, as if each
    answer took all its tokens: an upper bound for most presses.
    """
    left = int((table["Prompts"] - table["Done"]).sum())
    if not left:
        return 0.0, "nothing is left to do"
    configs = experiment.configs()
    finished = [cell for config in configs if (cell := find_finished(config))]
    if finished:
        per_prompt = sum(cell.data["seconds"] for cell in finished) / sum(cell.summary["n"] for cell in finished)
        return left * per_prompt, f"{per_prompt:.1f} s a prompt in the {len(finished)} finished cells"
    per_prompt = _probe(configs)
    return left * per_prompt, f"at most, if every answer takes all its tokens: {per_prompt:.1f} s a prompt in a short test"


def told(experiment: Experiment, table: pd.DataFrame) -> str:
    """The plan in one sentence."""
    seconds, how = estimate(experiment, table)
    cells, left = int((table["Done"] < table["Prompts"]).sum()), int((table["Prompts"] - table["Done"]).sum())
    return f"{cells} of {len(table)} cells with {left} prompts to do, about {seconds / 60:.0f} min on one worker ({how})."


def _probe(configs: Sequence[CellConfig]) -> float:
    """Seconds a prompt of one batch takes, from its prefill and a few steps."""
    config = configs[0].uncompressed()
    lm = load_for(config)
    prompts = cell_prompts(config, lm)
    rows = min(len(prompts), rows_together(config, lm, prompts))
    seconds = []
    for tokens in (1, 1 + PROBE_TOKENS):
        few = config.model_copy(update={"max_new_tokens": tokens})
        started = time.monotonic()
        for _ in generate_prompts(few, lm, prompts[:rows], rows):
            pass
        seconds.append(time.monotonic() - started)
    prefill, step = seconds[0], max(0.0, seconds[1] - seconds[0]) / PROBE_TOKENS
    return (prefill + step * (config.max_new_tokens - 1)) / rows
