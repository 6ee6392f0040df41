import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvhelpers.guard.ledger import Stretch, cost


def step_by_step(held, kept, tokens, beside):
    """Entries held at each token, counted one by one: of the compressed cache and of the full one beside."""
    steps = [held] if tokens else []
    for later in range(1, tokens):
        full = held + later if later <= beside else 0
        steps.append(kept + later + full)
    return steps


@given(st.integers(1, 300), st.integers(0, 300), st.integers(0, 40), st.integers(0, 40))
def test_entry_steps_and_peak_are_those_counted_step_by_step(held, removed, tokens, beside):
    kept = max(1, held - removed)
    stretch, steps = Stretch(held, kept, tokens, beside), step_by_step(held, kept, tokens, beside)
    assert stretch.entry_steps == pytest.approx(sum(steps))
    assert stretch.peak == pytest.approx(max(steps, default=0))


def test_an_uncompressed_run_holds_its_prompt_and_output():
    assert Stretch(10, 10, 3).entry_steps == 10 + 11 + 12
    assert Stretch(10, 10, 3).fed == 10 + 2


def test_what_was_taken_back_is_paid_for_too():
    restored = cost([Stretch(100, 20, 9), Stretch(105, 105, 4)], discarded=4)
    assert restored.entry_steps == sum([100, *range(21, 29)]) + sum([105, 106, 107, 108])
    assert (restored.peak, restored.fed, restored.discarded) == (108, 108 + 108, 4)


def test_a_full_cache_beside_costs_as_much_again():
    alone, both = Stretch(50, 10, 20), Stretch(50, 10, 20, beside=8)
    assert both.entry_steps - alone.entry_steps == sum(50 + step for step in range(1, 9))
    assert both.fed - alone.fed == 8
