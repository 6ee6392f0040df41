import pytest
from reference import alone

from kvhelpers.errors import InputError
from kvhelpers.experiment.condition import make_condition
from kvhelpers.guard.ledger import Stretch, cost, over_time
from kvhelpers.guard.one_run import risk_over_time, run_side_by_side, stretches_of
from kvhelpers.guard.policies import run_policy
from kvhelpers.hazard.model import read_model
from kvhelpers.paths import model_path, samples_dir
from kvhelpers.presses.spec import PressSpec

SPEC = PressSpec("snapkv", 0.875)
CONDITION = make_condition(
    {"press": "snapkv", "ratio": 0.875, "n_prompts": 2, "n_fewshot": 4, "max_new_tokens": 24}
)


@pytest.fixture(scope="module")
def hazard():
    return read_model(model_path("005-hazard-predictor", samples_dir()))


@pytest.fixture(scope="module")
def canary():
    """Runs whose canary always finds the cache too far away."""
    return run_side_by_side(CONDITION, run_policy("canary_commit", 0.0, SPEC, canary_tokens=4))


def test_a_canary_that_always_acts_goes_on_as_the_full_cache_from_its_tokens(canary, embedded):
    (acted,) = canary.guarded.run.acted
    assert (acted.name, acted.step, acted.keep) == ("restore", 5, 5)
    kept, ids = canary.alone.run.token_ids[:5], canary.guarded.run.token_ids
    assert ids[:5] == kept
    assert ids[5:] == alone(embedded, [*canary.prompt.token_ids, *kept], None, 0, len(ids) - 5)


def test_a_context_without_its_question_is_refused():
    condition = CONDITION.model_copy(update={"multiturn": False, "compress": "context"})
    with pytest.raises(InputError, match="has compress 'context'; a guard's memory is not counted there"):
        run_side_by_side(condition, run_policy("canary_commit", 0.0, SPEC, canary_tokens=4))


def test_its_memory_is_that_of_both_caches_and_then_of_the_full_one(canary):
    prompt = len(canary.prompt.token_ids)
    kept = canary.alone.run.cache.kept_tokens
    assert canary.guarded.entries[:5] == [prompt, *(kept + prompt + 2 * step for step in range(1, 5))]
    assert canary.guarded.entries[5:] == [
        prompt + step for step in range(5, len(canary.guarded.run.token_ids))
    ]
    assert canary.full.entries == [prompt + step for step in range(len(canary.full.run.token_ids))]


def test_what_is_held_over_time_sums_to_the_ledger_s_entry_steps(canary):
    stretches = stretches_of(canary.guarded.run, len(canary.prompt.token_ids), beside=4)
    assert sum(over_time(stretches)) == cost(stretches).entry_steps == sum(canary.guarded.entries)
    assert max(over_time(stretches)) == cost(stretches).peak


def test_the_risk_over_time_has_a_value_for_each_token_that_was_generated(canary, hazard):
    alone, guarded = canary.alone.run, canary.guarded.run
    risk = risk_over_time(alone, guarded, hazard)
    assert len(risk) == len(canary.guarded.entries)
    assert all(0 <= value <= 1 for value in risk)


def test_a_stretch_without_tokens_holds_nothing():
    assert over_time([Stretch(10, 5, 0)]) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("canary_comit", 0.5), "policy 'canary_comit' is unknown; did you mean 'canary_commit'?"),
        (("oracle", 0.5), "policy 'oracle' needs finished runs of the condition"),
        (("canary_commit", -0.5), "threshold -0.5 is below 0"),
        (("hazard_restore", 0.5), "policy 'hazard_restore' needs a hazard model"),
    ],
)
def test_a_policy_that_cannot_be_is_told_in_a_sentence(arguments, sentence):
    with pytest.raises(InputError) as caught:
        run_policy(*arguments, SPEC)
    assert str(caught.value).startswith(sentence)


def test_the_hazard_s_threshold_is_a_probability(hazard):
    with pytest.raises(InputError, match="threshold 1.5 is outside"):
        run_policy("hazard_restore", 1.5, SPEC, hazard)
