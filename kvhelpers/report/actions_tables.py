"""Tables of what an action can do, for its log and as CSV."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from kvhelpers.guard.acted_runs import START, Group
from kvhelpers.guard.actions_study import (
    WHOLE,
    ActedRun,
    ActionName,
    ActionsStudy,
    Contrast,
    Outcome,
    contrasts,
    outcomes,
)
from kvhelpers.guard.definition import before_name
from kvhelpers.report.format import GAP, p_value, points_of, share

EVERY_PLACE = "all, of runs with every place"


def outcomes_table(
    study: ActionsStudy, experiment: str, group: Group, actions: Sequence[ActionName] = WHOLE
) -> pd.DataFrame:
    """The share of a group's runs that end right, a row a place, a column an action; without a row where none
    of these was done.
    """
    made = [
        one
        for one in outcomes(study)
        if (one.experiment, one.group) == (experiment, group) and one.action in actions
    ]
    by_key = {(one.place, one.action): one for one in made}
    rows = []
    for place in dict.fromkeys(one.place for one in made):
        row: dict[str, object] = {"Acted on at": place, "n": by_key[place, actions[0]].right.n}
        for action in actions:
            row[str(action)] = _right(by_key.get((place, action)))
        rows.append(row)
    return pd.DataFrame(rows)


def conditions_table(study: ActionsStudy, experiment: str) -> pd.DataFrame:
    """The share of failing runs that end right when they are restored, a row a condition, a column a place;
    and with the same press anew at the onset. The last row is of the runs that were acted on at every place.
    """
    failing = [run for run in study.runs if (run.experiment, run.group) == (experiment, Group.FAILING)]
    places = (START, *study.definition.depths)
    parts = {
        label: [run for run in failing if run.condition == label]
        for label in dict.fromkeys(run.condition for run in failing)
    }
    parts[EVERY_PLACE] = with_every_place(study, experiment)
    rows = []
    for label, part in parts.items():
        own = study.model_copy(update={"runs": tuple(part)})
        made = {(one.place, one.action): one for one in outcomes(own)}
        row: dict[str, object] = {"Condition": label}
        for place in places:
            row[f"restore, {place}"] = _right_of(made.get((place, ActionName.RESTORE)))
        rows.append(row | {"again, onset": _right_of(made.get((before_name(0), ActionName.AGAIN)))})
    return pd.DataFrame(rows)


def with_every_place(study: ActionsStudy, experiment: str) -> list[ActedRun]:
    """The failing runs that were acted on at every place: those on which places can be compared."""
    failing = [run for run in study.runs if (run.experiment, run.group) == (experiment, Group.FAILING)]
    acted_at: dict[tuple[str, int], set[str]] = {}
    for run in failing:
        acted_at.setdefault((run.condition, run.prompt_index), set()).add(run.place)
    places = {START, *study.definition.depths}
    return [run for run in failing if acted_at[run.condition, run.prompt_index] >= places]


def _right(outcome: Outcome | None) -> str:
    return GAP if outcome is None else share(outcome.right)


def _right_of(outcome: Outcome | None) -> str:
    return GAP if outcome is None else f"{share(outcome.right)} of {outcome.right.n}"


def contrasts_table(made: Sequence[Contrast], experiment: str) -> pd.DataFrame:
    """A source's contrasts: differences in points, runs that changed, and what is found."""
    return pd.DataFrame(
        {
            "Runs": one.group,
            "First": _side(one.first),
            "Second": _side(one.second),
            "n": one.n,
            "Points": points_of(one.difference),
            "Only first right": one.only_first,
            "Only second right": one.only_second,
            "q": p_value(one.q),
            "The second": one.finding,
        }
        for one in made
        if one.experiment == experiment
    )


def _side(side: tuple[str, ActionName]) -> str:
    return f"{side[1]}, {side[0]}"


def action_tables(study: ActionsStudy) -> dict[str, pd.DataFrame]:
    """The study's numbers by name of the CSV file: outcomes, contrasts, and all runs without their texts."""
    return {
        "outcomes": pd.DataFrame(
            {
                "experiment": one.experiment,
                "runs": one.group,
                "place": one.place,
                "action": one.action,
                **_estimate("right", one.right),
                "looping": one.looping.value,
                "ended": one.ended.value,
                "tokens": one.tokens,
            }
            for one in outcomes(study)
        ),
        "contrasts": pd.DataFrame(
            {
                "experiment": one.experiment,
                "runs": one.group,
                "first": _side(one.first),
                "second": _side(one.second),
                **_estimate("difference", one.difference),
                "only_first": one.only_first,
                "only_second": one.only_second,
                "first_prompts": one.test.worse,
                "second_prompts": one.test.better,
                "p": one.test.p,
                "q": one.q,
                "finding": one.finding,
            }
            for one in contrasts(study)
        ),
        "runs": pd.DataFrame(
            run.model_dump(exclude={"token_ids", "text", "thinking_chars"}) for run in study.runs
        ),
    }


def _estimate(name: str, value) -> dict[str, float | int | None]:
    return {name: value.value, "low": value.low, "high": value.high, "n": value.n, "prompts": value.prompts}
