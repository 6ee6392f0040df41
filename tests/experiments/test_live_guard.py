"""The script of 012 and 015 says what their committed tables and logs say, and what pandas counts.

``NAME-policies.csv`` are the tables that the modules before the script wrote.
"""

import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from assert_same import assert_log_has
from scipy.stats import binomtest

from kvhelpers.commands.guard import command_of, run_study, write_stored_log
from kvhelpers.errors import InputError
from kvhelpers.experiment.grid import finished_results
from kvhelpers.guard.definition import load_definition
from kvhelpers.guard.source import Source
from kvhelpers.guard.study import read_study
from kvhelpers.hazard.risk_set import build
from kvhelpers.paths import (
    REPOSITORY,
    experiment_file,
    experiment_script,
    figures_dir,
    guard_path,
    log_path,
    samples_dir,
)

NAMES = ("012-live-guard", "015-live-guard-on-a-capable-model")
SCRIPT = runpy.run_path(str(experiment_script(NAMES[0])))
KEY = ["question", "subject", "metric"]
ENDS = {"": "estimate", "_low": "low", "_high": "high"}
METRICS = {"accuracy": "accuracy", "loss": "loss", "saved": "saved", "above_curve": "above mixture"}
COLUMNS = {
    f"{column}{end}": (metric, of)
    for column, metric in (METRICS | {"above_press": "above press"}).items()
    for end, of in ENDS.items()
}
COLUMNS |= {name: (name, "estimate") for name in ("draws", "rescued", "harmed", "alarms", "fed", "p")}
COLUMNS |= {
    "acted": ("acted on", "estimate"),
    "rescued_prompts": ("rescued prompts", "estimate"),
    "harmed_prompts": ("harmed prompts", "estimate"),
    "from_start": ("no token stays", "estimate"),
    "rescued_from_start": ("rescued, no token stays", "estimate"),
    "right_alone": ("right alone", "estimate"),
    "right_acted": ("right alone, acted on", "estimate"),
    "peak_bytes": ("peak, bytes", "estimate"),
    "discarded": ("taken back", "estimate"),
    "slow_down": ("slow-down", "estimate"),
}
VERDICTS = {"quality": "loss", "budget": "saved", "speed": "slow-down", "contract": "contract"}


@pytest.fixture(scope="module", params=NAMES)
def study(request):
    return read_study(guard_path(request.param, samples_dir()))


@pytest.fixture(scope="module")
def long(study):
    return SCRIPT["estimates"](study)


@pytest.fixture(scope="module")
def at(long):
    return long.set_index(KEY).sort_index()


@pytest.fixture(scope="module")
def source(study):
    return study.sources[0]


@pytest.fixture(scope="module")
def runs(study):
    """A row a guarded run of a policy that draws no lots; of each value, a column a policy."""
    table = pd.DataFrame(study.runs)
    return table[table["policy"] != "permuted"].pivot(index=["condition", "prompt_id"], columns="policy")


def table_of(path):
    return pd.read_csv(path, keep_default_na=False, na_values="")


def test_every_number_of_the_table_of_policies_is_in_the_long_frame(study, at):
    table, seen = table_of(Path(__file__).with_name(f"{study.definition.name}-policies.csv")), 0
    assert set(table) == {"experiment", "policy", *COLUMNS, *VERDICTS}
    for _, line in table.iterrows():
        for column, (metric, part) in COLUMNS.items():
            found = at[part].get((line["experiment"], line["policy"], metric), np.nan)
            assert (pd.isna(line[column]) and pd.isna(found)) or abs(line[column] - found) < 5.1e-7, column
            seen += 1
        for column, metric in VERDICTS.items():
            assert line[column] == at["verdict"][line["experiment"], line["policy"], metric]
    assert seen == 15 * 31


@pytest.fixture
def write(output, long, monkeypatch):
    """Writes a study whose numbers are there already."""
    monkeypatch.setitem(SCRIPT["write"].__globals__, "estimates", lambda study: long)
    return SCRIPT["write"]


def test_what_is_written_is_what_is_committed(study, long, write):
    """The log's words stay; its tables, and the tables of runs, are made again and are the same."""
    name = study.definition.name
    log = write(study)
    assert log == log_path(name)
    assert log.read_text() == (REPOSITORY / "experiments" / log.name).read_text()
    for part in ("runs", "live"):
        made = figures_dir(name) / f"{part}.csv"
        assert made.read_bytes() == (REPOSITORY / "figures" / name / made.name).read_bytes()
    written = table_of(figures_dir(name) / "estimates.csv")
    pd.testing.assert_frame_equal(
        written, table_of(REPOSITORY / "figures" / name / "estimates.csv"), atol=2e-6
    )
    pd.testing.assert_frame_equal(written[KEY], long[KEY])
    assert written["estimate"].tolist() == pytest.approx(long["estimate"].tolist(), abs=1e-6, nan_ok=True)
    assert (figures_dir(name) / "frontier.svg").is_file()


@pytest.mark.parametrize("study", NAMES[:1], indirect=True)
def test_a_log_that_is_not_there_yet_begins_with_what_was_asked(study, write):
    other = study.model_copy(update={"definition": study.definition.model_copy(update={"name": "made"})})
    text = write(other).read_text()
    assert text.startswith("# Experiment made: a guard that acts\n") and study.definition.objective in text
    assert text.count("| hazard_roll_back |") == 1 and "## Conclusions" in text


def by_search(budgets, rates, budget):
    """The best of all mixtures of two points that hold no more, on a fine grid."""
    best = max((rate for held, rate in zip(budgets, rates, strict=True) if held <= budget), default=None)
    for one in range(len(budgets)):
        for other in range(len(budgets)):
            for share in np.linspace(0, 1, 401):
                held = share * budgets[one] + (1 - share) * budgets[other]
                rate = share * rates[one] + (1 - share) * rates[other]
                if held <= budget + 1e-9 and (best is None or rate > best):
                    best = rate
    return best


def best(budgets, rates, budget):
    (found,) = SCRIPT["best_mixture"](np.array([budgets]), np.array([rates]), np.array([budget]))
    return found


@pytest.mark.parametrize("seed", range(8))
def test_the_best_mixture_is_the_one_that_a_search_finds(seed):
    draw = np.random.default_rng(seed)
    budgets, rates = draw.uniform(1, 10, 5), draw.uniform(0, 1, 5)
    for budget in draw.uniform(budgets.min(), 11, 5):
        assert best(budgets, rates, budget) == pytest.approx(by_search(budgets, rates, budget), abs=0.01)


def test_a_budget_below_all_ratios_is_given_the_cheapest():
    assert best([2.0, 4.0], [0.3, 0.9], 1.0) == 0.3


def test_what_is_said_of_runs_is_what_pandas_counts(study, source, runs, at):
    right = runs["correct"].astype(bool)
    for name in right:
        said = at.loc[source.experiment, name]["estimate"]
        rescued, acted = right[name] & ~right["press"], runs["alarm"][name].notna()
        anew = acted & (runs["keep"][name] == 0)
        assert said["rescued"] == rescued.sum() and said["harmed"] == (~right[name] & right["press"]).sum()
        change = right[name].astype(int) - right["press"]
        assert said["above press"] == pytest.approx(change.mean())
        better, worse = ((sign * change.groupby("prompt_id").sum() > 0).sum() for sign in (1, -1))
        assert (said["rescued prompts"], said["harmed prompts"]) == (better, worse)
        assert said["p"] == pytest.approx(binomtest(better, better + worse).pvalue if better + worse else 1)
        assert (said["alarms"], said["no token stays"]) == (acted.sum(), anew.sum())
        assert said["rescued, no token stays"] == (anew & rescued).sum()
        assert said["right alone, acted on"] == (acted & right["press"]).sum()


@pytest.mark.parametrize("study", NAMES[:1], indirect=True)
def test_the_lost_runs_are_those_that_fail_in_the_risk_set(source, runs, at):
    right = runs["correct"].astype(bool)
    every = finished_results(source.experiment, samples_dir())
    parts = [build([one]).runs.assign(label=one.label) for one in every if one.label in source.conditions]
    risk = pd.concat(parts)
    lost = right["none"] & ~right["press"]
    fails = lost[lost].index.isin(risk[risk["failed"]].set_index(["label", "prompt"]).index)
    unended = ~runs["ended"]["press"].astype(bool)[lost] & ~fails
    said = at.loc[source.experiment, "press"]["estimate"]
    assert said[["lost", "lost, failing", "lost, unended"]].tolist() == [
        lost.sum(),
        fails.sum(),
        unended.sum(),
    ]


def test_what_is_above_the_mixture_is_pooled_over_draws(study, source, at):
    table = pd.DataFrame(study.runs)
    own = table.groupby(["policy", "condition"])[["correct", "entry_steps"]].mean()
    points = SCRIPT["curve_of"](Source(study.sources[0]), study.definition.n_prompts)
    curve = points.groupby(["condition", "ratio"])[["correct", "entry_steps"]].mean()
    for name in study.definition.policies:
        above = [
            right - by_search(*curve.loc[label][["entry_steps", "correct"]].to_numpy().T, held)
            if held > curve.loc[label]["entry_steps"].min()
            else right - curve.loc[label].sort_values("entry_steps")["correct"].iloc[0]
            for label, (right, held) in own.loc[name].iterrows()
        ]
        said = at["estimate"][source.experiment, name, "above mixture"]
        assert said == pytest.approx(np.mean(above), abs=0.005)


def test_the_choice_over_all_conditions_is_the_mean_of_theirs(source, at):
    gains = at.xs(("hazard_roll_back", "above permuted"), level=["subject", "metric"])["estimate"]
    places = [f"{source.experiment}, {label}" for label in source.conditions]
    assert gains[source.experiment] == pytest.approx(gains[places].mean())
    alarms = at.xs(("hazard_roll_back", "acted on"), level=["subject", "metric"])["estimate"]
    free = [place for place in places if alarms[place] < 1]
    chooses = gains.filter(like="where it chooses")
    assert len(chooses) == (len(free) < len(places))
    assert chooses.tolist() == pytest.approx([gains[free].mean()] * len(chooses))


def test_a_policy_is_drawn_where_its_runs_are(study, source, long, at):
    panels = SCRIPT["frontier"](study, long).axes
    assert [axes.get_title() for axes in panels] == list(source.conditions)
    table = pd.DataFrame(study.runs)
    own = table.groupby(["condition", "policy"])[["entry_steps", "correct"]].mean()
    for axes in panels:
        its = own.loc[axes.get_title()].loc[list(study.definition.policies)]
        places = np.stack([its["entry_steps"] / its["entry_steps"]["none"], its["correct"]], axis=1)
        drawn = np.asarray(axes.collections[0].get_offsets())
        assert sorted(map(tuple, drawn.round(9))) == sorted(map(tuple, places.round(9)))
        (bars,) = axes.containers
        for line, which in zip(bars.lines[2], (1, 0), strict=True):  # along x, then along y
            across = np.array(line.get_segments())[:, 0, which]
            assert across == pytest.approx(places[:, which])


def test_without_time_and_without_a_hazard_there_is_no_such_row(study, source):
    policies = ("none", "press", "oracle")
    definition = study.definition.model_copy(update={"policies": policies, "permutations": 1})
    few = tuple(run for run in study.runs if run["policy"] in policies)
    small = study.model_copy(update={"definition": definition, "runs": few, "checks": ()})
    long = SCRIPT["estimates"](small)
    assert set(long[long["metric"] == "slow-down"]["verdict"]) == {"not measured"}
    assert not long["metric"].isin(["above permuted", "right, dealt anew"]).any()
    (gains,) = SCRIPT["tables"](small, long)
    assert gains["Policy"].tolist() == list(policies)
    assert long[(long["subject"] == "none") & (long["metric"] == "contract")]["verdict"].tolist() == ["fail"]


def test_runs_that_are_not_the_source_s_are_refused(study):
    first = next(run for run in study.runs if run["policy"] == "press")
    turned = [run | {"correct": not run["correct"]} if run is first else run for run in study.runs]
    with pytest.raises(InputError, match=r"is not of the runs of '\d{3}-"):
        SCRIPT["estimates"](study.model_copy(update={"runs": tuple(turned)}))


def test_a_stored_study_is_read_and_one_of_another_definition_is_made(study, output, monkeypatch):
    file = experiment_file(study.definition.name)
    script = {"write": lambda study: study, "make": lambda *asked: SimpleNamespace(save=made.append)}
    monkeypatch.setattr("kvhelpers.commands.guard.script_of", lambda kind: script)
    made, (source,) = [], study.sources
    words = load_definition(file, overrides={"next_steps": "Others."})
    for definition, only in ((study.definition, ()), (words, (source.experiment,))):
        assert run_study(definition, str(file), (), only) == study and not made
    run_study(load_definition(file, overrides={"horizon": 5}), str(file))
    (other,) = {part.experiment for part in study.definition.sources} - {source.experiment}
    run_study(study.definition, str(file), (), (other,))
    assert made == [guard_path(study.definition.name)] * 2


def test_the_log_s_tables_are_the_long_frame_s(study, long):
    assert_log_has(SCRIPT["tables"](study, long), study.definition.name, "Right")


def test_without_the_repository_s_script_a_study_is_refused_in_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr("kvhelpers.commands.guard.experiment_script", lambda name: tmp_path / f"{name}.py")
    file = experiment_file(NAMES[0])
    refused = r"made by 012-live-guard\.py, which is in the repository only"
    with pytest.raises(InputError, match=refused):
        write_stored_log(NAMES[0], samples_dir())
    with pytest.raises(InputError, match=refused):
        run_study(load_definition(file), str(file))


def test_a_study_s_command_names_no_folder_of_the_machine():
    file = experiment_file(NAMES[1])
    command = command_of(load_definition(file), str(file), (), ("006-capable-model",))
    assert command == f"python -m kvhelpers guard experiments/{NAMES[1]}.yaml --only 006-capable-model"


def test_a_file_that_is_none_is_one_sentence():
    command = [sys.executable, str(experiment_script(NAMES[0])), "missing.yaml"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2 and run.stdout == ""
    assert run.stderr.startswith("kvhelpers: error: experiment file 'missing.yaml' cannot be read")
    assert run.stderr.count("\n") == 1
