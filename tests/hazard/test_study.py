"""The study sees what is there, nothing where nothing is, and is data that can be stored."""

import inspect
import json

import numpy as np
import pytest
from factories import make_result
from factories_risk import make_looping_study, make_risk

from kvhelpers.errors import InputError
from kvhelpers.hazard.baselines import AVERAGE, MAIN, PROPOSED, RECURRENT, TREES, family_names
from kvhelpers.hazard.evaluation import Evaluation
from kvhelpers.hazard.events import Event
from kvhelpers.hazard.predictors import LogisticHazard
from kvhelpers.hazard.study import StudySettings, make_study, read_study, shuffle_outcomes
from kvhelpers.stats import draws


@pytest.fixture(scope="module")
def study():
    results = [make_result("none", 0.0, [True] * 4)]
    return make_study(make_risk(10), results, StudySettings(folds=2), progress=False)


def test_what_is_there_is_seen(study):
    entropy, best = study.methods["entropy"].auroc, study.methods[PROPOSED].auroc
    assert entropy.value > 0.9 and best.value > 0.85
    assert study.methods[TREES].auroc.value > 0.7 and study.methods[AVERAGE].auroc.value > 0.7
    assert study.methods[RECURRENT].auroc.value > 0.55
    assert study.methods["base rate"].auroc.value == 0.5
    assert list(study.runs_within) == list(study.methods) and study.runs_within["base rate"].value == 0.5
    assert study.runs_within["entropy"].value > 0.9
    assert set(study.caught_above) == set(study.alarms) - {PROPOSED}
    gained = study.alarms[PROPOSED][2].caught.value - study.alarms["position"][2].caught.value
    assert study.caught_above["position"][2].value == pytest.approx(gained)
    assert study.scrutiny is None
    elsewhere, ablations = study.elsewhere, study.ablations
    assert list(elsewhere.by_unseen_press) == ["knorm", "tova"]
    assert list(elsewhere.by_unseen_task) == list(elsewhere.by_seen_task) == ["task0", "task1"]
    assert elsewhere.uncensored == study.methods[PROPOSED]  # no run is censored here
    tested = sum(metrics.tokens for metrics in elsewhere.by_unseen_press.values())
    assert tested == elsewhere.unseen_presses.tokens < study.methods[PROPOSED].tokens
    assert list(ablations.without) == list(ablations.alone) == list(MAIN)
    assert ablations.alone["signals"].auroc.value > 0.9 > 0.7 > ablations.without["signals"].auroc.value
    assert list(study.by_horizon) == [1, 5, 10, 32, 50]
    assert study.coefficients[0].feature == "entropy" and study.coefficients[0].low > 0
    magnitudes = [abs(coefficient.coefficient) for coefficient in study.coefficients]
    assert magnitudes == sorted(magnitudes, reverse=True) and len(magnitudes) == len(study.model.names)
    by_name = {coefficient.feature: coefficient.coefficient for coefficient in study.coefficients}
    shipped = [by_name[name] for name in study.model.names]
    assert shipped == pytest.approx(study.model.coefficient)


def test_whether_a_run_ends_right_is_another_question(study):
    ends = study.right_ends
    assert "base rate" not in ends.methods and ends.methods[PROPOSED].auroc_within.value > 0.6
    assert list(ends.by_task) == list(ends.ended_by_task) == ["task0", "task1"]
    assert sum(metrics.tokens for metrics in ends.by_task.values()) == ends.methods[PROPOSED].tokens
    assert ends.among_ended.auroc is None and ends.among_ended.tokens > 0  # all that end are right
    risk = make_risk(10)
    label = risk.label(None)
    assert label.tolist() == (risk.runs["failed"].to_numpy()[risk.run]).astype(float).tolist()
    risk.runs["correct"] = False
    assert risk.label(None).all()
    risk.runs.loc[0, "stopped"] = True
    assert np.isnan(risk.label(None)[risk.run == 0]).all() and risk.label(None)[risk.run > 0].all()


def test_what_it_learned_from_is_counted(study):
    data = study.data
    assert (data.runs, data.prompts, data.failed, data.left_out) == (60, 10, 20, ())
    assert [source.model_dump() for source in data.sources] == [
        {
            "experiment": "made",
            "model": "m",
            "task": "onestep",
            "dtype": "float32",
            "conditions": 1,
        }
    ]
    assert (data.experiments, data.models) == (("made",), ("m",))
    assert sum(counts.runs for counts in data.events) == data.runs
    assert sum(counts.events[Event.LOOP] for counts in data.events) == data.failed
    bare = [counts for counts in data.events if counts.press == "none"]
    assert all(counts.events[Event.END] == counts.runs for counts in bare)
    assert 8 <= data.onsets[0] <= data.onsets[1] <= data.onsets[2] < 28


def test_invalid_conditions_are_named():
    _, results = make_looping_study()
    flagged = make_result("tova", 0.5, [False] * 4, flags=["not_compressed"])
    study = make_study(
        make_risk(4), [*results, flagged], StudySettings(folds=2, families=("signals",)), progress=False
    )
    (left,) = study.data.left_out
    assert (left.experiment, left.condition, left.flags) == ("made", "tova 0.5", ("not_compressed",))
    assert [source.conditions for source in study.data.sources] == [2]


def test_one_family_has_nothing_to_leave_out():
    _, results = make_looping_study()
    settings = StudySettings(folds=2, families=("signals",))
    ablations = make_study(make_risk(4), results, settings, progress=False).ablations
    assert (ablations.without, list(ablations.alone)) == ({}, ["signals"])


def test_what_made_it_is_noted():
    _, results = make_looping_study()
    settings = StudySettings(folds=2, families=("signals",))
    made = make_study(make_risk(4), results, settings, "papermill …", progress=False)
    assert made.provenance.command == "papermill …"
    assert {"python", "scikit-learn", "numpy"} <= set(made.provenance.versions)
    assert made.provenance.threads >= 1 and made.provenance.processor
    assert (made.draws.usual, made.draws.precision, made.draws.coefficients) == (1000, 200, 40)
    assert inspect.signature(draws).parameters["seed"].default == made.draws.seed


def test_a_study_survives_storage(study, tmp_path):
    path = study.save(tmp_path / "study.json")
    assert read_study(path) == study
    stored = json.loads(path.read_text())
    stored["methods"][PROPOSED]["tokens"] = "many"
    path.write_text(json.dumps(stored))
    with pytest.raises(InputError, match="study.json is no study of predictors"):
        read_study(path)


def test_an_edited_study_is_not_believed(study, tmp_path):
    path = study.save(tmp_path / "study.json")
    stored = json.loads(path.read_text())
    stored["methods"][PROPOSED]["auroc"]["value"] = 0.99
    path.write_text(json.dumps(stored))
    with pytest.raises(InputError, match="it has no seal, or was changed after it was written"):
        read_study(path)


def test_missed_failures_are_those_of_least_risk():
    study, results = make_looping_study()
    looping = {record.prompt_index for record in results[1].records if record.onset is not None}
    assert len(study.missed) == 3 and {failure.prompt_index for failure in study.missed} < looping
    highest = [failure.highest for failure in study.missed]
    assert highest == sorted(highest)
    least = next(trace for trace in study.traces if trace.kind == "failure, lowest risk")
    assert max(least.risk) == highest[0] and least.prompt == f"p/{study.missed[0].prompt_index}"
    assert all(len(trace.steps) == len(trace.risk) for trace in study.traces)
    assert all(max(trace.steps) < trace.time for trace in study.traces)


def test_shuffled_outcomes_leave_nothing():
    values = []
    for seed in range(6):  # one shuffle may miss 0.5 by chance
        evaluation = Evaluation(shuffle_outcomes(make_risk(24), seed), 10, 3)
        hazard = LogisticHazard(10, family_names("signals"))
        values.append(evaluation.judge(hazard).auroc_within.value)
    assert abs(np.mean(values) - 0.5) < 0.04


def test_shuffling_moves_whole_outcomes_within_conditions():
    risk = make_risk(6)
    shuffled = shuffle_outcomes(risk, 0)
    outcome = ["condition", "event", "time", "failed"]
    before, after = (sorted(map(tuple, part.runs[outcome].to_numpy())) for part in (risk, shuffled))
    assert before == after and (shuffled.runs["time"] != risk.runs["time"]).any()
    assert (shuffled.step < shuffled.runs["time"].to_numpy()[shuffled.run]).all()
    assert (shuffled.runs["correct"] == ~shuffled.runs["failed"]).all()
    assert (shuffled.runs["failed"] != risk.runs["failed"]).any()


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"horizon": 1.5}, "horizon 1.5 is not allowed; it is a whole number"),
        ({"folds": True}, "folds True is not allowed; it is a whole number"),
        ({"horizon": 0}, "horizon 0 is below 1"),
        ({"families": ["signal"]}, "feature family 'signal' is unknown; did you mean 'signals'"),
        (
            {"false_alarms": [5]},
            r"false_alarms \[5\] are not allowed; they are shares of runs that end right",
        ),
    ],
)
def test_parameters_that_are_none(parameters, sentence):
    with pytest.raises(InputError, match=sentence):
        StudySettings(**parameters)
