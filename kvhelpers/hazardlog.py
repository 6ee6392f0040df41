"""The log of a study of predictors: tables, sentences that follow the numbers, figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from kvhelpers import figures, hazardfigures, hazardtext
from kvhelpers.bootstrap import Estimate
from kvhelpers.hazardstudy import COEFFICIENT_DRAWS, Study
from kvhelpers.online import cost
from kvhelpers.paths import figures_dir, log_path, relative, results_dir, write_atomic
from kvhelpers.predictors import PROPOSED
from kvhelpers.results import CellResult
from kvhelpers.riskset import EVENTS, GOES_ON, UNSURE, RiskSet
from kvhelpers.signallog import excerpt, image
from kvhelpers.tables import is_invalid, markdown_table, percent
from kvhelpers.tokenmetrics import TokenMetrics

MISSED = 3  # failures shown as text
OBJECTIVE = (
    "Can failure be seen coming from a run's own signals, token by token, before it begins? Every number below comes from "
    "tokens at risk, before the onset, of prompts that the predictor has not seen."
)
EVENTS_TOLD = (
    "A run ends, for a predictor, with a *loop* (onset: the first token of the cycle), an *overrun* (the answer is there, but "
    f"the run goes on for at least {GOES_ON} tokens), by itself (*end*), or *censored* near the token limit: a loop that began "
    f"in the last {UNSURE} tokens might not show yet. Tokens whose next tokens are censored have no label and are left out. "
    "That the two predictors are averaged was decided after a look at both on part of the one-step runs; their constants come "
    "from other problems (`benchmarks/hazard_choice.py`)."
)
WHOLE_RUNS = (
    "A run is warned of when its score first exceeds a threshold. The threshold is set in inner folds, so that the wanted "
    "share of healthy training runs is warned of; *False alarms* is what happened in the test folds."
)


def metrics_table(found: Mapping[object, TokenMetrics], title: str) -> pd.DataFrame:
    """One row per predictor: token-level metrics with 95 % intervals, base rate, tokens and prompts."""

    def text(one: Estimate | None, digits: int = 2) -> str:
        return "–" if one is None else one.text(digits)

    rows = []
    for name, one in found.items():
        rows.append(
            {
                title: name,
                "AUROC": text(one.auroc),
                "AUROC, same token": text(one.auroc_same_token),
                "AUPRC": text(one.auprc, 3),
                "Base rate": "–" if np.isnan(one.base_rate) else f"{one.base_rate:.3f}",
                "Brier": text(one.brier, 4),
                "Tokens": one.tokens,
                "of them positive": one.positive,
            }
        )
    return pd.DataFrame(rows)


def warnings_table(found: Study) -> pd.DataFrame:
    """One row per predictor and wanted rate of false alarms: failures caught before their onset, and how early."""
    rows = []
    for name, judged in found.warnings.items():
        for one in judged:
            lead = "–"
            if len(one.lead):
                lead = "{:.0f} ({:.0f}, {:.0f})".format(*np.percentile(one.lead, [50, 25, 75]))
            rows.append(
                {
                    "Predictor": name,
                    "False alarms wanted": percent(one.wanted),
                    "False alarms": "–" if one.false_alarms is None else one.false_alarms.percent(),
                    "Failures caught": "–" if one.caught is None else one.caught.percent(),
                    "Lead, tokens: median (quartiles)": lead,
                    "n failures": "–" if one.caught is None else one.caught.n,
                }
            )
    return pd.DataFrame(rows)


def events_table(risk: RiskSet) -> pd.DataFrame:
    """Runs by task and press: how they ended for a predictor."""
    runs = risk.runs.assign(immediate=np.bincount(risk.run, minlength=len(risk.runs)) == 0)
    rows = []
    for (task, press), part in runs.groupby(["task", "press"], sort=False):
        counts = {event: int((part["event"] == event).sum()) for event in EVENTS}
        immediate = int((part["failed"] & part["immediate"]).sum())
        rows.append({"Task": task, "Press": press, "Runs": len(part)} | counts | {"no token at risk": immediate})
    return pd.DataFrame(rows)


def model_path(name: str) -> Path:
    """Where a study's model lies."""
    return results_dir(name) / "model.json"


def write_hazard_log(name: str, found: Study, cells: Sequence[CellResult], command: str) -> Path:
    """Write the study's log, figures and model under an experiment's name; return the log's path."""
    drawn = {
        "incidence": hazardfigures.incidence_curves(found.risk.runs),
        "reliability": hazardfigures.reliability(found),
        "risk": hazardfigures.risk_over_time(found),
        "coefficients": hazardfigures.coefficients(found),
    }
    images = {key: "../" + relative(figures.save(figure, figures_dir(name), key)) for key, figure in drawn.items()}
    model = found.model.save(model_path(name))
    text = render(name, found, cells, images, command, relative(model))
    return write_atomic(log_path(name), lambda temporary: temporary.write_text(text))


def render(name: str, found: Study, cells: Sequence[CellResult], images: Mapping[str, str], command: str, model: str) -> str:
    """The log's Markdown."""
    learning = {percent(share): one for share, one in found.learning.items()} | {"100 %": found.methods[PROPOSED]}
    sections = [
        f"# Experiment {name}",
        "<!-- Made from data. -->",
        "## Objective",
        OBJECTIVE,
        "## Setup",
        _setup(found, cells, command, model),
        EVENTS_TOLD,
        markdown_table(events_table(found.risk)),
        image(images, "incidence", "Cumulative incidence of failure (Aalen-Johansen), healthy ends competing"),
        "## Results",
        "\n".join(f"{n}. {told}" for n, told in enumerate(hazardtext.result_sentences(found), start=1)),
        "### Single tokens",
        f"Horizon {found.horizon}, prompts never seen, with 95 % intervals by bootstrap over prompts. *Same token* compares "
        "only tokens with the same number, and of the same fold, so that position gains nothing.",
        markdown_table(metrics_table(found.methods, "Predictor")),
        image(images, "reliability", f"Reliability ({PROPOSED}); Wilson 95 % intervals, tokens taken as independent"),
        f"### Other horizons ({PROPOSED})",
        markdown_table(metrics_table(found.by_horizon, "Horizon")),
        f"### Presses and tasks never seen ({PROPOSED})",
        "The prompts are not seen either.",
        markdown_table(metrics_table(found.elsewhere, "Tested on")),
        "### Whole runs",
        WHOLE_RUNS,
        markdown_table(warnings_table(found)),
        "### Which features matter",
        "The logistic hazard with other families of features.",
        markdown_table(metrics_table(found.ablations, "Features")),
        image(images, "coefficients", f"Largest coefficients of the logistic hazard, intervals from {COEFFICIENT_DRAWS} draws"),
        "### How much data",
        "The same test tokens, trained on a share of the training prompts.",
        markdown_table(metrics_table(learning, "Training prompts")),
        "### Control",
        hazardtext.control_sentence(found),
        "### What it looks like",
        image(images, "risk", "Risk over time of four runs, out of fold"),
        "### Failures it misses",
        f"The {MISSED} failures whose risk stayed lowest.",
        *_missed(found, cells),
        "## Cost",
        _cost(found, cells),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _setup(found: Study, cells: Sequence[CellResult], command: str, model: str) -> str:
    runs = found.risk.runs
    left_out = [f"`{cell.label}` of `{cell.config['experiment']}`" for cell in cells if is_invalid(cell, None)]
    experiments = ", ".join(f"`{experiment}`" for experiment in dict.fromkeys(runs["experiment"]))
    told = {
        "Runs": f"{len(runs)} of {runs['prompt'].nunique()} prompts, from {experiments}; {len(found.risk.run)} tokens at risk",
        "Left out": f"{', '.join(left_out) or 'no cell'} (flags that take away a cell's meaning)",
        "Horizon": f"a failure begins within the next {found.horizon} tokens",
        "Predictors": f"{len(found.model.names)} causal features ({', '.join(found.families)}), without share removed and "
        "press; logistic regression, boosted trees, and the average of their log-odds",
        "Model": f"`{model}`, the {PROPOSED}, trained on all prompts (data `{found.model.data_hash[:12]}`)",
        "Command": f"`{command}`",
    }
    return "\n".join(f"- **{key}:** {value}" for key, value in told.items())


def _cost(found: Study, cells: Sequence[CellResult]) -> str:
    scoring, generating = cost(found.model, cells)
    return (
        f"Scoring takes {1e3 * scoring:.2f} ms a token on this machine, one run at a time, features included. In the batches "
        f"of these runs a decode step took {1e3 * generating:.2f} ms for each of its tokens, prefill included: "
        f"scoring would add {percent(scoring / generating)}."
    )


def _missed(found: Study, cells: Sequence[CellResult]) -> list[str]:
    runs, highest = found.risk.runs, pd.Series(found.scores).groupby(found.risk.run).max()
    failed = highest[runs.loc[highest.index, "failed"]].sort_values().index[:MISSED]
    by_name = {(cell.config["experiment"], cell.label): cell for cell in cells}
    told = []
    for run in failed:
        row = runs.loc[run]
        cell = by_name[row["experiment"], row["cell"]]
        record = next(one for one in cell.records if one["prompt_index"] == row["prompt_index"])
        told.append(f"{row['event']} from token {row['time']}, highest risk {highest[run]:.3f}: {excerpt(cell, record)}")
    return told
