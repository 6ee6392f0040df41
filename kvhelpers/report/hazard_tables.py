"""Tables of a study of predictors: as people read them, and as numbers for CSV files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from kvhelpers.hazard.baselines import PROPOSED
from kvhelpers.hazard.events import Event
from kvhelpers.hazard.run_alarms import RunAlarms
from kvhelpers.hazard.scrutiny import Scrutiny
from kvhelpers.hazard.study import Ablations, Elsewhere, Runs, Study
from kvhelpers.report.format import GAP, estimate, percent, share
from kvhelpers.stats import Estimate, TokenMetrics

QUARTILES = (25, 50, 75)
WITHIN, POOLED = "AUROC, same condition and token", "AUROC, all pairs"
RUNS_WITHIN = "AUROC, runs of the same condition"
NUMBERS = {"estimate": float, "low": float, "high": float, "n": "Int64", "prompts": "Int64"}


def results_table(study: Study) -> pd.DataFrame:
    """One row per predictor: single tokens, and whole runs at the highest wanted rate of false alarms; a dash
    where whole runs were not judged.
    """
    rows = []
    for name, value in study.methods.items():
        alarms = highest_rate(study.alarms[name]) if name in study.alarms else None
        rows.append(
            {
                "Predictor": name,
                WITHIN: estimate(value.auroc_within),
                POOLED: estimate(value.auroc),
                "AUPRC": estimate(value.auprc, 3),
                RUNS_WITHIN: estimate(study.runs_within[name]),
                "False alarms": share(alarms and alarms.false_alarms),
                "Wrong ends": share(alarms and alarms.wrong_ends),
                "Failures caught": share(alarms and alarms.caught),
                "Lead, tokens": _lead(alarms.lead if alarms else ()),
            }
        )
    return pd.DataFrame(rows)


def highest_rate(alarms: Sequence[RunAlarms]) -> RunAlarms:
    """The alarms at the highest wanted rate of false alarms."""
    return max(alarms, key=lambda value: value.wanted)


def metrics_table(metrics: Mapping[object, TokenMetrics], title: str) -> pd.DataFrame:
    """One row per predictor or test, named in the column ``title``: token-level metrics with 95 % intervals,
    base rate, and numbers of tokens.
    """
    return pd.DataFrame(
        {
            title: name,
            WITHIN: estimate(value.auroc_within),
            POOLED: estimate(value.auroc),
            "AUPRC": estimate(value.auprc, 3),
            "Base rate": GAP if value.base_rate is None else f"{value.base_rate:.3f}",
            "Brier": estimate(value.brier, 4),
            "Tokens": value.tokens,
            "of them positive": value.positive,
        }
        for name, value in metrics.items()
    )


def alarms_table(alarms: Mapping[str, Sequence[RunAlarms]]) -> pd.DataFrame:
    """One row per predictor and wanted rate of false alarms: failures caught before their onset, and how
    early.
    """
    return pd.DataFrame(
        {
            "Predictor": name,
            "False alarms wanted": percent(value.wanted),
            "False alarms": share(value.false_alarms),
            "Wrong ends": share(value.wrong_ends),
            "Failures caught": share(value.caught),
            "Lead, tokens": _lead(value.lead),
        }
        for name, by_rate in alarms.items()
        for value in by_rate
    )


def _lead(lead: Sequence[int]) -> str:
    """``8 (3, 18)``: median and quartiles."""
    if not lead:
        return GAP
    low, median, high = np.percentile(lead, QUARTILES)
    return f"{median:.0f} ({low:.0f}, {high:.0f})"


def events_table(data: Runs) -> pd.DataFrame:
    """Runs by task (of a model) and press: how they ended for a predictor."""
    return pd.DataFrame(
        {"Task": counts.task, "Press": counts.press, "Runs": counts.runs}
        | {str(event): counts.events[event] for event in Event}
        | {"no token at risk": counts.immediate}
        for counts in data.events
    )


def elsewhere_rows(elsewhere: Elsewhere) -> dict[str, TokenMetrics]:
    """What was tested where, by name."""
    return (
        {"presses never seen, all": elsewhere.unseen_presses}
        | {f"press never seen: {name}": value for name, value in elsewhere.by_unseen_press.items()}
        | {f"task never seen: {name}": value for name, value in elsewhere.by_unseen_task.items()}
        | {f"all seen, {name} only": value for name, value in elsewhere.by_seen_task.items()}
        | {"all seen, censored runs left out": elsewhere.uncensored}
    )


def right_end_rows(study: Study) -> dict[str, TokenMetrics]:
    """Whether a run will do anything but end right: predictors, and the proposed one by task and among the
    runs that end.
    """
    ends = study.right_ends
    return (
        ends.methods
        | {f"{PROPOSED}, {name} only": value for name, value in ends.by_task.items()}
        | {f"{PROPOSED}, runs that end": ends.among_ended}
        | {f"{PROPOSED}, {name}, runs that end": value for name, value in ends.ended_by_task.items()}
    )


def ablation_rows(ablations: Ablations) -> dict[str, TokenMetrics]:
    """The logistic hazard with other features, by name."""
    return (
        {f"without {family}": value for family, value in ablations.without.items()}
        | {f"{family} only": value for family, value in ablations.alone.items()}
        | {
            "with position": ablations.with_position,
            "with share removed": ablations.with_share,
            "with share removed and press": ablations.with_condition,
        }
    )


def learning_rows(study: Study) -> dict[str, TokenMetrics]:
    """The proposed predictor by share of the training prompts."""
    return {percent(part): value for part, value in study.learning.items()} | {
        percent(1): study.methods[PROPOSED]
    }


def published_table(scrutiny: Scrutiny) -> pd.DataFrame:
    """One row per change of definitions: AUROC over the pairs of a fold by horizon, and at the middle one
    within condition and token.
    """
    horizons = sorted(scrutiny.published[0].pooled)
    middle = horizons[len(horizons) // 2]
    return pd.DataFrame(
        {"Definitions": step.change, "Failures": step.failures}
        | {f"AUROC, all pairs of a fold, horizon {h}": estimate(step.pooled[h]) for h in horizons}
        | {f"{WITHIN}, horizon {middle}": estimate(step.within[middle])}
        for step in scrutiny.published
    )


def varied_table(scrutiny: Scrutiny) -> pd.DataFrame:
    """One row per definition of failure: AUROC within condition and token by horizon."""
    return pd.DataFrame(
        {"Failure": varied.definition, "Failures": varied.failures}
        | {f"horizon {horizon}": estimate(value) for horizon, value in varied.within.items()}
        for varied in scrutiny.varied
    )


def number_tables(study: Study) -> dict[str, pd.DataFrame]:
    """The tables as numbers, by the name of their file.

    A row per number: what it is of, the ``metric``, the ``estimate``, its 95 % interval ``low`` to ``high``,
    ``n`` tokens (runs, where the metric is about runs) and their ``prompts``. ``published``, ``varied``,
    ``oracle`` and ``oracle_gains`` are there where the study has a scrutiny. ``events`` has a row per task
    and press instead.
    """
    every = study.learning | {1.0: study.methods[PROPOSED]}
    return {
        "events": events_table(study.data).rename(columns=lambda name: name.lower().replace(" ", "_")),
        "predictors": _metric_numbers(study.methods, "predictor"),
        "runs": numbers_table(
            [
                {"question": question, "predictor": name, "metric": "auroc_within_condition"}
                | number_of(value)
                for question, runs in _runs_within(study).items()
                for name, value in runs.items()
            ]
        ),
        "differences": numbers_table(
            [
                {"baseline": name, "metric": "auroc_within_difference"} | number_of(value)
                for name, value in study.above.items()
            ]
        ),
        "caught_differences": numbers_table(
            [
                {"baseline": name, "false_alarms_wanted": wanted, "metric": "caught_difference"}
                | number_of(value)
                for name, by_rate in study.caught_above.items()
                for wanted, value in zip(study.settings.false_alarms, by_rate, strict=True)
            ]
        ),
        "alarms": _alarm_numbers(study.alarms),
        "horizons": _metric_numbers(study.by_horizon, "horizon"),
        "right_ends": _metric_numbers(right_end_rows(study), "predictor"),
        "elsewhere": _metric_numbers(elsewhere_rows(study.elsewhere), "tested_on"),
        "ablations": _metric_numbers(ablation_rows(study.ablations), "features"),
        "learning": _metric_numbers(every, "share_of_training_prompts"),
        "control": _metric_numbers(dict(enumerate(study.control)), "shuffle"),
    } | ({} if study.scrutiny is None else _scrutiny_numbers(study.scrutiny))


def _runs_within(study: Study) -> dict[str, Mapping[str, Estimate | None]]:
    """Whole runs of the same condition, by question."""
    return {"fails": study.runs_within, "does not end right": study.right_ends.runs_within}


def _scrutiny_numbers(scrutiny: Scrutiny) -> dict[str, pd.DataFrame]:
    steps = [
        {"definitions": step.change, "horizon": horizon, "metric": metric} | number_of(value)
        for step in scrutiny.published
        for metric, by_horizon in (("auroc_of_fold", step.pooled), ("auroc_within", step.within))
        for horizon, value in by_horizon.items()
    ]
    varied = [
        {"failure": one.definition, "horizon": horizon, "metric": "auroc_within"} | number_of(value)
        for one in scrutiny.varied
        for horizon, value in one.within.items()
    ]
    oracles = {"fails": scrutiny.onsets_oracle, "does not end right": scrutiny.right_ends_oracle}
    knows = [
        _metric_numbers(oracle.methods, "knows").assign(question=question)
        for question, oracle in oracles.items()
    ]
    gains = [
        {"question": question, "predictor": kind, "metric": "auroc_within_gain"} | number_of(value)
        for question, oracle in oracles.items()
        for kind, value in oracle.gain.items()
    ]
    return {
        "published": numbers_table(steps),
        "varied": numbers_table(varied),
        "oracle": pd.concat(knows, ignore_index=True),
        "oracle_gains": numbers_table(gains),
    }


def _metric_numbers(metrics: Mapping[object, TokenMetrics], key: str) -> pd.DataFrame:
    rows = []
    for name, value in metrics.items():
        for metric in ("auroc_within", "auroc", "auprc", "brier"):
            rows.append({key: name, "metric": metric} | number_of(getattr(value, metric)))
        rows.append({key: name, "metric": "base_rate", "estimate": value.base_rate, "n": value.tokens})
    return numbers_table(rows)


def _alarm_numbers(alarms: Mapping[str, Sequence[RunAlarms]]) -> pd.DataFrame:
    rows = []
    for name, by_rate in alarms.items():
        for value in by_rate:
            of = {"predictor": name, "false_alarms_wanted": value.wanted}
            rows.append(of | {"metric": "false_alarms"} | number_of(value.false_alarms))
            rows.append(of | {"metric": "wrong_ends"} | number_of(value.wrong_ends))
            rows.append(of | {"metric": "caught"} | number_of(value.caught))
            for percentile in QUARTILES:
                lead = float(np.percentile(value.lead, percentile)) if value.lead else None
                metric = f"lead_percentile_{percentile}"
                rows.append(of | {"metric": metric, "estimate": lead, "n": len(value.lead)})
    return numbers_table(rows)


def number_of(value: Estimate | None) -> dict[str, float | None]:
    """An estimate's columns `NUMBERS`; none where there is no estimate."""
    if value is None:
        return {}
    return dict(zip(NUMBERS, (value.value, value.low, value.high, value.n, value.prompts), strict=True))


def numbers_table(rows: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    """Rows of what an estimate is of, and its columns; a missing number is empty."""
    of = [name for name in rows[0] if name not in NUMBERS]
    return pd.DataFrame(rows, columns=[*of, *NUMBERS]).astype(NUMBERS)
