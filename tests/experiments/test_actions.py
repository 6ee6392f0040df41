"""The script of 011 and 014 says what their committed tables and logs say, and what pandas counts.

``NAME-outcomes.csv`` and ``NAME-contrasts.csv`` are the tables that the modules before the script wrote.
"""

import runpy
from pathlib import Path

import pandas as pd
import pytest
from assert_same import assert_log_has
from factories import make_result
from scipy.stats import binomtest

from kvhelpers.errors import InputError
from kvhelpers.guard.definition import ActionsDefinition
from kvhelpers.guard.source import Source
from kvhelpers.guard.study import read_study
from kvhelpers.paths import REPOSITORY, experiment_script, figures_dir, guard_path, log_path, samples_dir
from kvhelpers.records import StopReason

NAMES = ("011-what-an-action-can-do", "014-actions-on-a-capable-model")
SCRIPT = runpy.run_path(str(experiment_script(NAMES[0])))
KEY = ["question", "subject", "metric"]
SAID = {"helps": {"higher"}, "harms": {"lower"}, "no evidence": {"undecided", "none seen"}}
COUNTS = {"only_first": "only first", "only_second": "only second", "first_prompts": "prompts worse"}
COUNTS |= {"second_prompts": "prompts better", "p": "p"}
ENDS = {"low": "low", "high": "high", "n": "n", "prompts": "prompts"}
N = 12


@pytest.fixture(scope="module", params=NAMES)
def study(request):
    return read_study(guard_path(request.param, samples_dir()))


@pytest.fixture(scope="module")
def long(study):
    return SCRIPT["estimates"](study)


@pytest.fixture(scope="module")
def at(long):
    return long.set_index(KEY).sort_index()


def table_of(study, part):
    path = Path(__file__).with_name(f"{study.definition.name}-{part}.csv")
    return pd.read_csv(path).to_dict("records")


def test_every_number_of_the_table_of_outcomes_is_in_the_long_frame(study, at):
    for line in table_of(study, "outcomes"):
        key = (f"{line['experiment']}, {line['runs']}", f"{line['action']}, {line['place']}")
        right = at.loc[(*key, "right")]
        assert right["estimate"] == pytest.approx(line["right"], abs=5.1e-7)
        for column, end in ENDS.items():
            assert right[end] == pytest.approx(line[column], abs=5.1e-7)
        for metric in ("looping", "ended", "tokens"):
            assert at["estimate"][(*key, metric)] == pytest.approx(line[metric], abs=5.1e-7)


def test_every_number_of_the_table_of_contrasts_is_in_the_long_frame(study, at):
    for line in table_of(study, "contrasts"):
        key = (f"{line['experiment']}, {line['runs']}", f"{line['second']}, against {line['first']}")
        found = at.loc[(*key, "difference")]
        for column, part in (ENDS | {"difference": "estimate", "q": "q"}).items():
            assert found[part] == pytest.approx(line[column], abs=5.1e-7)
        for column, metric in COUNTS.items():
            assert at["estimate"][(*key, metric)] == pytest.approx(line[column], abs=5.1e-7)
        assert found["verdict"] in SAID[line["finding"]]


def test_the_parts_of_the_failing_runs_are_what_pandas_counts(study, at):
    runs = pd.DataFrame(study.runs)
    (source,) = study.sources
    failing = runs[(runs["group"] == "failing") & (runs["place"] == "onset")]
    parts = {"to token 16": failing["onset"].between(1, 16), "behind token 16": failing["onset"] > 16}
    assert sum(map(sum, parts.values())) == len(failing)
    for part, of_part in parts.items():
        right = failing[of_part].pivot(index=["prompt_id", "condition"], columns="action", values="correct")
        said = at.loc[f"{source.experiment}, failing, onset {part}"]
        assert said.loc[("restore, onset", "right"), "estimate"] == pytest.approx(right["restore"].mean())
        change = right["restore"].astype(int) - right["again"].astype(int)
        totals = change.groupby("prompt_id").sum()
        p = binomtest((totals > 0).sum(), (totals != 0).sum()).pvalue
        assert said.loc[("restore, onset, against again, onset", "p"), "estimate"] == pytest.approx(p)
        found = said.loc[("restore, onset, against again, onset", "difference")]
        assert pd.isna(found["q"]) and found["verdict"] is None


def test_what_is_written_is_what_is_committed(study, long, output, monkeypatch):
    monkeypatch.setitem(SCRIPT["write"].__globals__, "estimates", lambda study: long)
    name = study.definition.name
    log = SCRIPT["write"](study)
    assert log == log_path(name)
    assert log.read_text() == (REPOSITORY / "experiments" / log.name).read_text()
    committed = REPOSITORY / "figures" / name
    assert (figures_dir(name) / "runs.csv").read_bytes() == (committed / "runs.csv").read_bytes()
    written = pd.read_csv(figures_dir(name) / "estimates.csv")
    pd.testing.assert_frame_equal(written, pd.read_csv(committed / "estimates.csv"), atol=2e-6)
    assert {path.name for path in committed.iterdir()} == {path.name for path in figures_dir(name).iterdir()}


def test_the_log_s_tables_are_the_long_frame_s(study, long):
    assert_log_has(SCRIPT["tables"](study, long), study.definition.name, "restore")


def test_intervals_are_drawn_where_the_long_frame_has_them(study, long):
    first = SCRIPT["figure"](study, long).axes[0]
    places = [label.get_text() for label in first.get_xticklabels()]
    assert [place.split(" (")[0] for place in places] == ["start", *study.definition.depths]
    shares = SCRIPT["by_action"](long)
    (source,) = study.sources
    shares = shares[(shares["question"] == f"{source.experiment}, failing") & (shares["metric"] == "again")]
    drawn = [line.get_ydata() for line in first.lines]
    for row in shares.itertuples():
        assert any(len(y) == 2 and sorted(y) == pytest.approx([row.low, row.high]) for y in drawn)
        assert any(row.estimate == pytest.approx(value) for y in drawn for value in y)


def test_runs_that_are_not_the_source_s_are_refused(study):
    runs = [run | {"before": run["before"] + 1} if run is study.runs[0] else run for run in study.runs]
    with pytest.raises(InputError, match=r"is not of the runs of '\d{3}-"):
        SCRIPT["estimates"](study.model_copy(update={"runs": tuple(runs)}))


def acted(rows):
    """Failing runs that were restored and acted on anew at the onset, by prompt, condition and both ends."""
    return pd.DataFrame(
        {"condition": label, "prompt_index": 0, "prompt": prompt, "group": "failing", "place": "onset"}
        | {"action": action, "side": f"{action}, onset", "correct": right}
        for prompt, label, ends in rows
        for action, right in zip(("again", "restore"), ends, strict=True)
    )


@pytest.mark.parametrize(
    ("prompts", "counts", "verdict"),
    [(10, (0, 10), "higher"), (2, (0, 2), "undecided"), (5, (0, 5), "undecided")],
)
def test_runs_of_one_prompt_are_one_piece_of_evidence(prompts, counts, verdict):
    """Twenty runs that restoring makes right, of so many prompts."""
    runs = acted((f"p{n % prompts}", f"c{n // prompts}", (False, True)) for n in range(20))
    rows = SCRIPT["with_q"](list(SCRIPT["contrasts"]("made", runs)))
    said = {row["metric"]: row for row in rows}
    assert (said["prompts worse"]["estimate"], said["prompts better"]["estimate"]) == counts
    assert (said["only second"]["estimate"], said["difference"]["verdict"]) == (20, verdict)


def test_nothing_is_found_where_runs_and_prompts_disagree():
    """Twelve prompts lose a run each, one gains thirty: more runs end right, of fewer prompts."""
    rows = [(f"p{n}", "c", (True, False)) for n in range(12)] + [
        ("q", f"c{n}", (False, True)) for n in range(30)
    ]
    (made,) = SCRIPT["contrasts"]("made", acted(rows))
    made[0] |= {"low": 0.1, "high": 0.7}
    (first, *_) = SCRIPT["with_q"]([made])
    assert first["q"] < 0.05 and first["verdict"] == "undecided"


class Made(Source):
    """A source of conditions made for the purpose."""

    def __init__(self, baseline, *conditions):
        self.experiment, self.baseline = "made", baseline
        self.conditions = {result.label: result for result in conditions}
        self.every = {baseline.label: baseline} | self.conditions


@pytest.fixture
def definition():
    asked = {"sources": [{"experiment": "made", "conditions": ["knorm 0.5"]}], "shares": (0.5,)}
    return ActionsDefinition(kind="actions", name="made", objective="See.", runs=3, others=2, **asked)


def source(onsets, right=()):
    compressed = make_result("knorm", 0.5, [index in right for index in range(N)], onsets)
    return Made(make_result("none", 0.0, [True] * (N - 1) + [False]), compressed)


def places(group, of, definition):
    return [place for place in SCRIPT["places"](of, definition) if place.group == group]


def test_failures_are_acted_on_at_their_onset_and_before_where_there_is_a_token(definition):
    made = places("failing", source({0: 20, 1: 7, 2: 0}), definition)
    assert [(place.index, place.keep) for place in made] == [
        (0, {"start": 0, "onset − 16": 4, "onset − 10": 10, "onset − 5": 15, "onset": 20}),
        (1, {"start": 0, "onset − 5": 2, "onset": 7}),
        (2, {"start": 0}),
    ]


def test_failures_at_the_first_token_take_no_room_from_others(definition):
    onsets = dict.fromkeys(range(6), 0) | dict.fromkeys(range(6, 11), 9)
    assert [place.index for place in places("failing", source(onsets), definition)] == [0, 1, 2, 6, 7, 8]


def test_wrong_runs_are_those_that_need_not_be(definition):
    """The last prompt is not solved without a press either."""
    made = places("wrong", source({0: 20}, right=range(1, N - 2)), definition)
    assert [(place.index, place.keep) for place in made] == [(N - 2, {"start": 0, "50 % of the run": 15})]


def test_a_run_that_fails_is_not_among_the_wrong_ones(definition):
    """Some that loop or overrun end by themselves."""
    made = source({0: 20}, right=range(3, N))
    ((label, result),) = made.conditions.items()
    ended = result.records[0].model_copy(update={"stop_reason": StopReason.EOS})
    made.conditions[label] = result.model_copy(update={"records": (ended, *result.records[1:])})
    assert [place.index for place in places("wrong", made, definition)] == [1, 2]


def test_right_runs_are_acted_on_at_tokens_at_which_failing_ones_are(definition):
    right = places("right", source({0: 20}, right=range(1, N)), definition)
    assert [place.index for place in right] == [1, 2]
    assert {place.keep["matched"] for place in right} <= {4, 10, 15, 20}


def test_without_failures_right_runs_are_acted_on_at_shares(definition):
    right = places("right", source({}, right=range(N)), definition)
    assert [place.keep for place in right] == [{"start": 0, "50 % of the run": 15}] * 2


@pytest.mark.parametrize("study", NAMES[:1], indirect=True)
def test_the_committed_study_acts_where_the_script_does(study):
    """Runs, places, tokens and actions, in their order. (By today's rules one run more of 014's source is
    right, and would be acted on.)
    """
    (part,) = study.sources
    of, definition = Source(part), study.definition
    wanted = [
        (place.label, place.index, place.group, where, place.keep[where], action, point is None)
        for place in SCRIPT["places"](of, definition)
        for where, action, point in SCRIPT["actions"](of, place, definition)
    ]
    keys = ("condition", "prompt_index", "group", "place", "keep", "action", "known")
    assert wanted == [tuple(run[key] for key in keys) for run in study.runs]
