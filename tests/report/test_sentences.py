"""The templates' sentences turn around when the data do, and name what is missing."""

from factories import make_result

from kvhelpers.analysis.analyse import analyse
from kvhelpers.analysis.comparisons import compare_conditions
from kvhelpers.experiment.grid import Contrast
from kvhelpers.experiment.results import find_baseline
from kvhelpers.report.render import block
from kvhelpers.report.sentences import (
    alarm_sentences,
    condition_sentence,
    discriminator_sentences,
    onset_sentences,
)
from kvhelpers.scoring.flags import baseline_is_weak

RIGHT, WRONG = [True] * 12, [False] * 12
LOUD = {index: 3 for index in range(12)}


def accuracy(*results):
    baseline = find_baseline(results)
    weak = baseline is not None and baseline_is_weak(baseline.summary.accuracy.count)
    tests = compare_conditions(results).accuracy
    return block("conclusions", "accuracy", baseline=baseline, weak=weak, tests=tests)


def looping(*results):
    return block("conclusions", "looping", results=results, comparisons=compare_conditions(results))


def test_accuracy_turns_around():
    none = make_result("none", 0.0, RIGHT)
    drop = accuracy(none, make_result("knorm", 0.5, WRONG)).split("\n")
    assert drop[1].startswith(
        "With `knorm 0.5`, keeping 50 of 100 prompt tokens, 0 of 12 (0 % [0, 24]) prompts are solved: lower "
        "than without compression (12 prompts lost, 0 gained, q = "
    )
    mixed = make_result("none", 0.0, [True] * 8 + [False] * 8)
    assert "higher than without compression" in accuracy(mixed, make_result("knorm", 0.5, [True] * 16))
    same = accuracy(none, make_result("knorm", 0.5, [*RIGHT[1:], False]))
    assert "not distinguishable from no compression" in same
    assert "too few to show a drop" in accuracy(make_result("none", 0.0, [True] * 5), none)
    assert "no drop can be stated" in accuracy(make_result("knorm", 0.5, RIGHT))


def test_many_conditions_share_a_sentence_for_each_verdict():
    pressed = [make_result("knorm", ratio / 10, WRONG if ratio > 5 else RIGHT) for ratio in range(1, 8)]
    _, higher, lower, same = accuracy(make_result("none", 0.0, RIGHT), *pressed).split("\n")
    assert higher == "Accuracy: higher than without compression in 0 of 7 conditions."
    assert "lower than without compression in 2 of 7 conditions: `knorm 0.6` (−100 [" in lower
    assert "not distinguishable from without compression in 5 of 7 conditions: `knorm 0.1` (+0 [" in same


def test_looping_turns_around():
    none = make_result("none", 0.0, RIGHT)
    loud, quiet = make_result("snapkv", 0.5, RIGHT, LOUD), make_result("tova", 0.5, RIGHT)
    assert "`snapkv 0.5` loops more often than `tova 0.5`" in looping(none, loud, quiet)
    quiet, loud = make_result("snapkv", 0.5, RIGHT), make_result("tova", 0.5, RIGHT, LOUD)
    assert "`tova 0.5` loops more often than `snapkv 0.5`" in looping(none, quiet, loud)
    both = looping(none, make_result("snapkv", 0.5, RIGHT, LOUD), loud)
    assert "`snapkv 0.5` and `tova 0.5` do not differ detectably in looping" in both
    assert looping(none) == "No run loops."


def test_a_flag_stands_beside_every_number_it_concerns():
    none, quiet = make_result("none", 0.0, RIGHT), make_result("tova", 0.5, RIGHT)
    flagged = make_result("snapkv", 0.5, RIGHT, LOUD, flags=["kept_within_window"])
    assert accuracy(none, flagged, quiet).count("**Not valid as evidence about `snapkv`:**") == 1
    sentences = looping(none, flagged, quiet)
    assert "(not valid, see its flags)" in sentences and "see the flags of `snapkv 0.5`." in sentences
    noted = make_result("knorm", 0.5, RIGHT, flags=["sink_evicted"])
    assert condition_sentence(noted).endswith(
        " fail catastrophically. Note: the attention sink (first token) was evicted in most heads (12 of "
        "12 runs)."
    )


def test_contrasts_name_both_conditions():
    results = [make_result("knorm", 0.25, WRONG, LOUD), make_result("tova", 0.5, RIGHT)]
    contrasts = [
        Contrast(about="The two", first="knorm 0.25", second="tova 0.5"),
        Contrast(about="A third", first="knorm 0.25", second="none"),
    ]
    there, missing = block(
        "comparisons", "contrasts", comparisons=compare_conditions(results, contrasts)
    ).split("\n")
    assert there.startswith(
        "The two: `knorm 0.25` against `tova 0.5` (75 and 50 kept tokens, n = 12): looping 100 % against "
        "0 %, difference +100 ["
    )
    assert "; accuracy 0 % against 100 %, difference −100 [" in there and there.count("(q = 0.00049)") == 2
    assert missing == "Not yet compared, since a condition is missing: `knorm 0.25` against `none`."


def test_alarms_say_what_is_missing():
    none = make_result("none", 0.0, [True] * 3)
    first, high, low = alarm_sentences(
        analyse([none, make_result("knorm", 0.5, [False] * 3, {0: 0, 1: 1, 2: 12})])
    ).split("\n")
    assert first.startswith("2 looping runs begin to loop at token 0 or 1")
    assert "of 1 looping runs" in high and "**no verdict**" in high and "**no verdict**" in low
    quiet = alarm_sentences(analyse([none, make_result("knorm", 0.5, [True] * 3)]))
    assert quiet == "No run loops later than that, so nothing can be said about prediction."
    alone = alarm_sentences(analyse([make_result("knorm", 0.5, [False] * 3, {0: 12})]))
    assert alone.startswith("No uncompressed run")


def test_gaps_and_left_out_conditions_are_named():
    flagged = make_result("snapkv", 0.5, [True] * 8, flags=["kept_within_window"])
    found = analyse([make_result("none", 0.0, [True] * 8), make_result("knorm", 0.5, [True] * 8), flagged])
    sentences = discriminator_sentences(found)
    assert "Looping: of the whole run, none can be told (no run has the outcome looping)" in sentences
    left_out, entropy, *_ = onset_sentences(found).split("\n")
    assert left_out == "Left out of what follows, because of their flags: `snapkv 0.5`."
    assert entropy.startswith("Entropy around the onset: no looping run has another run")
