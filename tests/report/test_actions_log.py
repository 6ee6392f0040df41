"""The log of what an action can do, of studies made for the purpose: its first sentences follow the data."""

import pytest

from kvhelpers.guard.acted_runs import START
from kvhelpers.guard.actions_study import (
    ActedRun,
    ActedSource,
    ActionName,
    ActionsStudy,
    Contrast,
    Finding,
    contrasts,
    outcomes,
)
from kvhelpers.guard.definition import ActionsDefinition
from kvhelpers.hazard.provenance import StudyProvenance
from kvhelpers.report.actions_log import actions_log
from kvhelpers.report.actions_tables import conditions_table
from kvhelpers.report.figures.actions import actions_figure
from kvhelpers.stats import Estimate, SignTest

NAMES = (ActionName.RESTORE, ActionName.RELAX, ActionName.AGAIN)


def run(index, group, place, action, correct):
    return ActedRun(
        experiment="made",
        condition="knorm 0.5",
        press="knorm",
        prompt_index=index,
        prompt_id=f"p/{index}",
        group=group,
        onset=7 if group == "failing" else None,
        place=place,
        keep=0 if place == START else 7,
        before=20,
        action=action,
        known=False,
        correct=correct,
        ended=True,
        looping=False,
        error=None,
        tokens=12,
        kept_tokens=30.0,
        held_tokens=60,
        wall_seconds=0.1,
    )


def study(n, restored, again):
    """``n`` failing runs, of which so many are right when restored at the onset, and with the press anew;
    all when restored at the start.
    """
    right = {ActionName.RESTORE: restored, ActionName.RELAX: restored, ActionName.AGAIN: again}
    runs = []
    for index in range(n):
        for name in NAMES:
            runs.append(run(index, "failing", START, name, name != ActionName.AGAIN))
            runs.append(run(index, "failing", "onset", name, index < right[name]))
            runs.append(run(index, "right", START, name, True))
            runs.append(run(index, "right", "matched", name, name == ActionName.RESTORE))
    return ActionsStudy(
        provenance=StudyProvenance(
            command="do it",
            commit="c" * 40,
            clean=True,
            processor="x",
            cores=2,
            threads=1,
            versions={"numpy": "2"},
        ),
        definition=ActionsDefinition(
            kind="actions",
            name="made",
            objective="See.",
            sources=[{"experiment": "made", "conditions": ["knorm 0.5"]}],
        ),
        sources=(
            ActedSource(
                experiment="made",
                model="m",
                task="t",
                dtype="float32",
                conditions=("knorm 0.5",),
                max_new_tokens=20,
            ),
        ),
        runs=tuple(runs),
    )


@pytest.mark.parametrize(
    ("n", "restored", "again", "finding", "sentence"),
    [
        (20, 16, 2, Finding.HELPS, "**Restoring at the onset helps.**"),
        (20, 3, 2, Finding.NO_EVIDENCE, "**That restoring at the onset helps is not shown.**"),
        (20, 1, 15, Finding.HARMS, "**Restoring at the onset does worse than the same press anew:"),
        (4, 4, 0, Finding.TOO_FEW, "**Too few runs to say whether restoring at the onset helps.**"),
    ],
)
def test_the_first_sentence_follows_the_data(output, n, restored, again, finding, sentence):
    made = study(n, restored, again)
    (gain,) = (
        one
        for one in contrasts(made)
        if (one.group, one.first, one.second)
        == ("failing", ("onset", ActionName.AGAIN), ("onset", ActionName.RESTORE))
    )
    assert gain.finding == finding
    assert gain.only_second - gain.only_first == restored - again
    log = actions_log(made)
    assert sentence in log
    assert f"difference {100 * (restored - again) / n:+.0f}".replace("-", "−") in log
    assert f"of {n} runs that end right by themselves, 100 %" in log


def test_nothing_is_found_where_runs_and_prompts_disagree():
    """Twelve prompts lose a run each, one gains thirty: more runs end right, of fewer prompts."""
    common = {"experiment": "m", "group": "failing", "n": 42, "only_first": 12, "only_second": 30, "q": 0.01}
    sides = {"first": ("onset", ActionName.AGAIN), "second": ("onset", ActionName.RESTORE)}
    above = Estimate(18 / 42, 0.1, 0.7, 42, 13)
    for worse, better, finding in ((12, 1, Finding.NO_EVIDENCE), (1, 12, Finding.HELPS)):
        test = SignTest(worse, better, 0.003)
        assert Contrast(**common, **sides, difference=above, test=test).finding == finding


@pytest.mark.parametrize(
    ("prompts", "counts", "finding"),
    [(10, (0, 10), Finding.HELPS), (2, (0, 2), Finding.TOO_FEW), (5, (0, 5), Finding.TOO_FEW)],
)
def test_runs_of_one_prompt_are_one_piece_of_evidence(prompts, counts, finding):
    """Twenty runs that restoring makes right, of so many prompts."""
    made = study(20, 20, 0)
    shared = [
        one.model_copy(
            update={
                "prompt_id": f"p/{one.prompt_index % prompts}",
                "condition": f"c{one.prompt_index // prompts}",
            }
        )
        for one in made.runs
    ]
    (gain,) = (
        one
        for one in contrasts(made.model_copy(update={"runs": tuple(shared)}))
        if (one.group, one.first, one.second)
        == ("failing", ("onset", ActionName.AGAIN), ("onset", ActionName.RESTORE))
    )
    assert (gain.n, gain.only_first, gain.only_second) == (20, 0, 20)
    assert ((gain.test.worse, gain.test.better), gain.finding) == (counts, finding)


def test_outcomes_are_the_shares_of_right_runs(output):
    made = {(one.group, one.place, one.action): one for one in outcomes(study(20, 15, 5))}
    assert made["failing", "onset", ActionName.RESTORE].right.value == 0.75
    assert made["failing", "onset", ActionName.AGAIN].right.value == 0.25
    assert made["right", "matched", ActionName.AGAIN].right.value == 0
    assert all(one.right.n == 20 for one in made.values())


def test_places_stand_beside_each_other_on_the_same_runs():
    """Five of twenty runs have no token at the onset: the last row leaves them out at the start as well."""
    made = study(20, 15, 5)
    runs = tuple(one for one in made.runs if one.place != "onset" or one.prompt_index < 15)
    definition = made.definition.model_copy(update={"before_onset": (0,)})
    table = conditions_table(made.model_copy(update={"runs": runs, "definition": definition}), "made")
    assert list(table.columns) == ["Condition", "restore, start", "restore, onset", "again, onset"]
    of = [[cell.rpartition(" of ")[2] for cell in row[1:]] for row in table.values.tolist()]
    assert of == [["20", "15", "15"], ["15", "15", "15"]]
    assert table["again, onset"].iloc[1].startswith("33 %")


def test_an_interval_is_drawn_down_to_zero(output):
    """One of twenty runs is right: the interval begins at 0, and so does its bar."""
    made = study(20, 15, 1)
    (anew,) = (one for one in outcomes(made) if (one.place, one.action) == ("onset", ActionName.AGAIN))
    assert anew.right.low == 0
    drawn = [
        segment[:, 1].tolist()
        for bars in actions_figure(made).axes[0].containers
        for segment in bars.lines[2][0].get_segments()
    ]
    assert any(low == pytest.approx(0) and high == pytest.approx(anew.right.high) for low, high in drawn)


def test_the_figure_has_a_panel_for_each_group(output):
    figure = actions_figure(study(20, 15, 5))
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["m,\nruns that fail", "m,\nruns that end wrong", "m,\nruns that end right"]
