import pandas as pd
import pytest

from kvhelpers.records import Answer, CacheReport, Failures, Record, StopReason
from kvhelpers.scoring.score import Ended, score
from kvhelpers.scoring.summary import ENDINGS, most_interesting, summarize


def record(looping=False, non_termination=False, onset=None, **changes):
    """A run that answers wrongly."""
    failures = Failures(
        non_termination=non_termination,
        looping=looping,
        wrong_answer=True,
        loop_onset=onset,
        loop_detected=None,
        window_loop=None,
        periodic_loop=None,
    )
    cache = CacheReport(
        prompt_tokens=10, kept_tokens=5, cache_bytes=100, full_bytes=200, sink_kept=1, window=None
    )
    fields = {"prompt_index": 0, "prompt_id": "p/0", "reference": "1", "text": "", "prompt_tokens": 10}
    fields |= {"n_tokens": 2, "stop_reason": "eos", "error": None, "correct": False, "failures": failures}
    fields |= {"answer": Answer(strict=None, flexible=None, decided_by=None), "loop_onset_char": None}
    return Record(**fields | {"cache": cache, "seconds": 1.0} | changes)


def test_runs_are_averaged_not_tokens():
    records = [record(n_tokens=1), record(n_tokens=3), record(n_tokens=0, stop_reason="error", cache=None)]
    signals = pd.DataFrame(
        {"prompt_index": [0, 1, 1, 1], "entropy": [4.0, 1.0, 2.0, 3.0], "top1_prob": [0.2, 0.9, 0.5, 0.6]}
    )
    summary = summarize(records, signals)
    assert summary.mean_entropy == 3 and summary.max_entropy == 3.5
    assert summary.min_top1_prob == pytest.approx(0.35)
    assert summary.n == summary.cfr.n == 3 and summary.stop_reasons == {"eos": 2, "error": 1}


def test_no_tokens_at_all_gives_no_signal_rather_than_nan():
    summary = summarize(
        [record(n_tokens=0, cache=None)], pd.DataFrame({"prompt_index": [], "entropy": [], "top1_prob": []})
    )
    assert summary.mean_entropy is None and summary.kept_tokens is None


def test_the_most_interesting_run_loops_late():
    early = record(looping=True, onset=0)
    late = record(looping=True, onset=50)
    long = record(non_termination=True, n_tokens=500)
    assert most_interesting([early, long, late]) is late
    assert most_interesting([record(), long]) is long


def answered(strict, flexible, stop_reason="eos", reference="5", looping=False, left=False, marks=None):
    decided = "strict-match" if strict else "flexible-extract" if flexible else None
    answer = Answer(strict=strict, flexible=flexible, decided_by=decided)
    wrong = record().failures.model_copy(
        update={"wrong_answer": answer.value != reference, "looping": looping, "loop_left": left}
    )
    return record(answer=answer, failures=wrong, stop_reason=stop_reason, reference=reference, marks=marks)


def test_how_answers_end_is_counted_rule_by_rule():
    records = [
        answered("5", "5"),
        answered(None, "5"),  # the format is lost, the answer is not
        answered("5", "7"),  # a number after the answer
        answered("4", "5"),  # right by the rule that does not decide
        answered(None, "5", "max_new_tokens"),  # right, and never ended
        answered(None, "4", "eos", looping=True),  # looped, and ended
        answered("5", "5", looping=True, left=True),
        answered(None, None, "error"),
    ]
    counts = {name: sum(map(rule, records)) for name, rule in ENDINGS.items()}
    assert counts == {
        "strict": 3,
        "flexible": 4,
        "format_lost": 1,
        "right_unended": 1,
        "loop_ended": 2,
        "loop_left": 1,
        "never_left_thinking": 0,
    }


def test_strict_and_flexible_are_the_harness_s_marks_where_it_gave_some():
    marks = {"exact_match,strict-match": 0.0, "exact_match,flexible-extract": 1.0}
    one = answered("5", None, marks=marks)
    assert (ENDINGS["strict"](one), ENDINGS["flexible"](one)) == (False, True)


def text_run(before, answer):
    """A run of one token a character."""
    text = before + answer
    return Ended(text, list(map(ord, text)), range(1, len(text) + 1), StopReason.EOS)


@pytest.mark.parametrize("before", ["Worked out.\n" + "-" * 30 + "\n", "a third is 0." + "3" * 40 + ", so\n"])
def test_a_right_answer_behind_dashes_or_a_recurring_number_is_no_catastrophe(before):
    right, wrong = (score(text_run(before, f"#### {answer}"), "8") for answer in (8, 9))
    assert right.correct and right.failures.looping and right.failures.loop_left
    assert not right.failures.catastrophic and right.failures.loop_onset is not None
    assert wrong.failures.looping and not wrong.failures.loop_left and wrong.failures.catastrophic


def test_a_right_answer_in_front_of_a_loop_or_within_it_does_not_leave_it():
    for run in (text_run("#### 8\n", "-" * 30), text_run("", "#### 8\n" * 9)):
        scored = score(run, "8")
        assert scored.correct and scored.failures.looping and scored.failures.catastrophic


@pytest.mark.parametrize(
    ("stop_reason", "correct", "wrong"),
    [
        (StopReason.EOS, True, False),
        (StopReason.STOP_STRING, True, False),
        (StopReason.MAX_NEW_TOKENS, False, False),
        (StopReason.TIMEOUT, False, False),
        (StopReason.ERROR, False, True),
    ],
)
def test_a_right_answer_is_correct_where_the_run_ended(stop_reason, correct, wrong):
    scored = score(Ended("#### 5", [1, 2], [5, 6], stop_reason), "5")
    assert (scored.correct, scored.failures.wrong_answer) == (correct, wrong)
