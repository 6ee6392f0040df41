"""A live guard on a few prompts of the committed sample, with the embedded model."""

import runpy
from types import SimpleNamespace

import pytest

from kvhelpers.generation.generate import generate
from kvhelpers.guard.definition import LiveDefinition
from kvhelpers.guard.ledger import cost
from kvhelpers.guard.live import make_live_study
from kvhelpers.guard.one_run import stretches_of
from kvhelpers.guard.study import read_study
from kvhelpers.paths import experiment_script

POLICIES = (
    "none",
    "press",
    "stop",
    "repetition_restart",
    "prune",
    "force_answer",
    "canary_commit",
    "fixed_relax",
    "router",
    "oracle",
    "oracle_alarm",
)
DEFINITION = LiveDefinition(
    kind="live",
    name="made",
    objective="See.",
    sources=[
        {"experiment": "002-compression-sweep", "conditions": ["streaming_llm 0.875"]},
    ],
    policies=POLICIES,
    n_prompts=2,
    folds=2,
    live=1,
    fixed_token=12,
    false_alarms=0.5,
)


@pytest.fixture(scope="module")
def watched():
    """What was generated while a guard watched, call by call: requests, settings and runs."""
    return []


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("live")


@pytest.fixture(scope="module")
def study(folder, watched):
    def generate_and_note(lm, requests, settings):
        runs = list(generate(lm, requests, settings))
        watched.append((requests, settings, runs))
        return runs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kvhelpers.guard.live.TIMES", 1)  # times are not looked at here
        patch.setattr("kvhelpers.guard.live.generate", generate_and_note)
        return make_live_study(DEFINITION, folder, "do it")


def runs_of(study, policy):
    runs = [SimpleNamespace(**run) for run in study.runs if run["policy"] == policy]
    return {(run.condition, run.prompt_index): run for run in runs}


def checks_of(study):
    return [SimpleNamespace(**check) for check in study.checks]


def test_every_prompt_guarded_while_it_runs_has_the_composed_tokens(study):
    assert {check.policy for check in checks_of(study)} == set(POLICIES) - {"oracle", "oracle_alarm"}
    assert all(check.same == check.n == 1 for check in checks_of(study))
    assert sum(check.acted for check in checks_of(study) if check.policy not in ("none", "press")) > 4


def test_what_was_guarded_while_it_ran_stays_when_alarms_are_dealt_out_more_often(study, folder, monkeypatch):
    monkeypatch.setattr("kvhelpers.guard.live.generate", None)
    again = make_live_study(DEFINITION.model_copy(update={"permutations": 3}), folder, "do it")
    assert again.checks == study.checks and again.runs == study.runs


def test_a_composed_run_costs_what_the_guarded_one_did(study, watched):
    assert len(watched) == len(study.checks)
    for check, (requests, settings, runs) in zip(checks_of(study), watched, strict=True):
        composed = runs_of(study, check.policy)[check.condition, 0]
        stretches = stretches_of(runs[0], len(requests[0].token_ids), settings.canary_tokens)
        spent = cost(stretches, sum(acted.step - acted.keep for acted in runs[0].acted if acted.cache))
        assert (composed.entry_steps, composed.peak) == pytest.approx((spent.entry_steps, spent.peak))
        assert (composed.fed, composed.discarded) == (spent.fed, spent.discarded)


def test_canary_commit_keeps_its_tokens(study):
    acted = [run for run in runs_of(study, "canary_commit").values() if run.alarm is not None]
    assert acted and {(run.alarm, run.keep, run.discarded) for run in acted} == {(9, 9, 0)}


def test_all_policies_have_all_prompts(study):
    assert {policy: len(runs_of(study, policy)) for policy in POLICIES} == dict.fromkeys(POLICIES, 2)


def test_what_begins_again_with_the_full_cache_is_the_uncompressed_run_and_costs_more(study):
    full, alone = runs_of(study, "none"), runs_of(study, "press")
    for policy in ("repetition_restart", "oracle", "router"):
        for key, run in runs_of(study, policy).items():
            same = full[key] if run.alarm is not None else alone[key]
            assert (run.correct, run.tokens) == (same.correct, same.tokens)
            if run.alarm:
                assert run.entry_steps > full[key].entry_steps and run.discarded == run.alarm


def test_a_stopped_run_is_not_right_and_costs_less(study):
    alone = runs_of(study, "press")
    stopped = {key: run for key, run in runs_of(study, "stop").items() if run.alarm is not None}
    assert stopped
    for key, run in stopped.items():
        assert not run.correct and not run.ended and run.tokens == run.alarm
        assert run.entry_steps < alone[key].entry_steps


def test_the_oracle_is_right_wherever_one_of_both_is(study):
    full, alone, oracle = (runs_of(study, policy) for policy in ("none", "press", "oracle"))
    assert all(run.correct == (full[key].correct or alone[key].correct) for key, run in oracle.items())


def test_a_study_is_read_as_it_was_written_and_its_results_follow(study, tmp_path):
    again = read_study(study.save(tmp_path / "guard.json.gz"))
    assert again == study
    script = runpy.run_path(str(experiment_script("012-live-guard")))
    long = script["estimates"](again).set_index(["question", "subject", "metric"])["estimate"].sort_index()
    of = {policy: long["002-compression-sweep", policy] for policy in POLICIES}
    assert of["none"]["loss"] == of["none"]["saved"] == of["press"]["acted on"] == of["oracle"]["harmed"] == 0
    assert of["none"]["acted on"] == 1
    assert of["press"]["above mixture"] <= 1e-9  # it is a point of its own curve
