"""When policies act, on runs of the committed sample; no model is needed."""

import pandas as pd
import pytest

from kvhelpers.guard.decisions import Decision, Decisions, Evidence
from kvhelpers.guard.definition import QUALITY_LOSS, LiveDefinition, SourceRuns
from kvhelpers.guard.source import Source
from kvhelpers.guard.thresholds import folds_of
from kvhelpers.hazard.risk_set import build

CONDITIONS = ("streaming_llm 0.875", "tova 0.75", "tova 0.875")
RUNS = {"experiment": "002-compression-sweep", "conditions": CONDITIONS}
DEFINITION = LiveDefinition(
    kind="live", name="made", objective="See.", sources=[RUNS], policies=["none", "press"], n_prompts=30
)


@pytest.fixture(scope="module")
def source():
    return Source(SourceRuns(**RUNS))


@pytest.fixture
def evidence(source):
    prompts = [record.prompt_id for record in source.baseline.records[: DEFINITION.n_prompts]]
    return Evidence(folds_of(prompts, 3))


def records(source, label):
    return source.every[label].records[: DEFINITION.n_prompts]


def test_the_oracle_acts_where_only_the_full_cache_is_right(source, evidence):
    for label in CONDITIONS:
        acted = [one.step for one in Decisions(source, label, DEFINITION, evidence).decisions("oracle")]
        wanted = [
            0 if full.correct and not alone.correct else None
            for full, alone in zip(records(source, "none"), records(source, label), strict=True)
        ]
        assert acted == wanted and 0 in acted


def test_the_oracle_s_alarm_goes_off_when_the_failure_begins(source, evidence):
    """The events of the risk set that hazard models learn from."""
    for label in CONDITIONS:
        runs = build([source.every[label]], n_prompts=DEFINITION.n_prompts).runs.set_index("prompt_index")
        failed = runs[runs["failed"] & ~runs["correct"].astype(bool)]
        decisions = Decisions(source, label, DEFINITION, evidence).decisions("oracle_alarm")
        steps = {index: one.step for index, one in enumerate(decisions) if one.step is not None}
        assert steps == failed["time"].astype(int).to_dict() and steps


def test_alarms_are_dealt_out_within_a_condition_and_anew_in_each_and_each_time(source, evidence):
    dealt = {}
    for label in CONDITIONS:
        decisions = Decisions(source, label, DEFINITION, evidence)
        steps = range(1, DEFINITION.n_prompts + 1)
        decisions.decided["hazard_roll_back", 0] = [Decision(step, step, None) for step in steps]
        draws = [[one.step for one in part] for part in decisions.draws("permuted")]
        assert len({tuple(steps) for steps in draws}) == DEFINITION.permutations
        dealt[label] = draws[0]
        length = [record.n_tokens for record in records(source, label)]
        assert all(step is None or step < n for step, n in zip(dealt[label], length, strict=True))
        left = sorted(step for step in dealt[label] if step is not None)
        dropped = set(range(1, DEFINITION.n_prompts + 1)) - set(left)
        assert len(set(left)) == len(left) and set(range(1, min(length))) <= set(left)
        assert all(step >= min(length) for step in dropped)
    assert len({tuple(steps) for steps in dealt.values()}) == len(CONDITIONS)


def test_the_canary_s_threshold_has_seen_neither_the_prompt_nor_the_press(source, evidence):
    """Such runs are given a divergence of 100, all others 1."""
    prompts = [record.prompt_id for record in records(source, "none")]
    asked = prompts[0]
    for label in CONDITIONS:
        evidence.canary[label] = {
            index: (100.0 if evidence.folds[prompt] == evidence.folds[asked] else 1.0,) * 8
            for index, prompt in enumerate(prompts)
        }
    evidence.canary["streaming_llm 0.875"] = dict.fromkeys(range(len(prompts)), (100.0,) * 8)
    decisions = Decisions(source, "streaming_llm 0.875", DEFINITION, evidence)
    assert decisions.canary_threshold(asked) == 1
    for label in ("tova 0.75", "tova 0.875"):
        evidence.canary[label] = dict.fromkeys(range(len(prompts)), (2.0,) * 8)
    assert decisions.canary_threshold(asked) == 2  # runs of other prompts and presses count


def test_the_router_knows_only_the_other_folds(source, evidence):
    for label in CONDITIONS:
        table = pd.DataFrame(
            {
                "fold": [evidence.folds[record.prompt_id] for record in records(source, label)],
                "loss": [
                    int(full.correct) - int(alone.correct)
                    for full, alone in zip(records(source, "none"), records(source, label), strict=True)
                ],
            }
        )
        total, own = table["loss"].agg(["sum", "count"]), table.groupby("fold")["loss"].agg(["sum", "count"])
        lost = (total["sum"] - own["sum"]) / (total["count"] - own["count"])
        routed = [one.step for one in Decisions(source, label, DEFINITION, evidence).decisions("router")]
        assert routed == [0 if lost[fold] > QUALITY_LOSS else None for fold in table["fold"]]
