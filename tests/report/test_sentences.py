"""The templates' sentences turn around when the data do, and name what is missing."""

from factories import make_result

from kvhelpers.analysis.analyse import analyse
from kvhelpers.analysis.comparisons import compare_conditions
from kvhelpers.analysis.half_accuracy import find_half_accuracies
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
    return block(
        "conclusions", "accuracy", baseline=baseline, weak=weak, comparisons=compare_conditions(results)
    )


def looping(*results):
    return block("conclusions", "looping", results=results, comparisons=compare_conditions(results))


def test_accuracy_turns_around():
    none, same = make_result("none", 0.0, RIGHT), make_result("knorm", 0.5, [*RIGHT[1:], False])
    assert accuracy(none, same) == "No drop in accuracy is seen with `knorm`."
    drops = accuracy(
        none, make_result("knorm", 0.25, RIGHT), *(make_result("knorm", r, WRONG) for r in (0.5, 0.75))
    )
    assert drops.endswith("than without compression at 50 kept tokens with `knorm`.")
    both = accuracy(none, make_result("knorm", 0.5, WRONG), make_result("tova", 0.5, RIGHT))
    assert both.endswith("50 kept tokens with `knorm`. No drop is seen with `tova`.")
    assert "no drop in accuracy can be shown" in accuracy(make_result("none", 0.0, [True] * 5), none)
    assert "no drop can be stated" in accuracy(make_result("knorm", 0.5, RIGHT))


def verdicts(named_too, *results):
    tests = compare_conditions(results).accuracy
    return block("comparisons", "verdicts", title="Accuracy", tests=tests, named_too=named_too).split("\n")


def test_conditions_share_a_sentence_for_each_verdict():
    pressed = [make_result("knorm", ratio / 10, WRONG if ratio > 5 else RIGHT) for ratio in range(1, 8)]
    higher, lower, same = verdicts(True, make_result("none", 0.0, RIGHT), *pressed)
    assert higher == "- Accuracy: higher than without compression in 0 of 7 conditions."
    assert "lower than without compression in 2 of 7 conditions: `knorm 0.6` (−100 [" in lower
    assert "not distinguishable from without compression in 5 of 7 conditions: `knorm 0.1` (0 [" in same
    assert verdicts(False, make_result("none", 0.0, RIGHT), *pressed)[1].endswith("in 2 of 7 conditions.")
    mixed = make_result("none", 0.0, [True] * 8 + [False] * 8)
    assert (
        "in 1 of 1 conditions: `knorm 0.5`"
        in verdicts(True, mixed, make_result("knorm", 0.5, [True] * 16))[0]
    )


def test_looping_turns_around():
    none = make_result("none", 0.0, RIGHT)
    loud, quiet = make_result("snapkv", 0.5, RIGHT, LOUD), make_result("tova", 0.5, RIGHT)
    assert "1 of 1 pairs" in looping(none, loud, quiet)
    assert "`snapkv 0.5` (100 %) loops more than `tova 0.5` (0 %)." in looping(none, loud, quiet)
    quiet, loud = make_result("snapkv", 0.5, RIGHT), make_result("tova", 0.5, RIGHT, LOUD)
    assert "`tova 0.5` (100 %) loops more than `snapkv 0.5` (0 %)." in looping(none, quiet, loud)
    both = looping(none, make_result("snapkv", 0.5, RIGHT, LOUD), loud)
    assert both.endswith("in 0 of 1 pairs of conditions at the same ratio or budget.")
    assert looping(none) == "No run loops."


def test_a_flag_stands_beside_every_number_it_concerns():
    none, quiet = make_result("none", 0.0, RIGHT), make_result("tova", 0.5, RIGHT)
    flagged = make_result("snapkv", 0.5, WRONG, LOUD, flags=["kept_within_window"])
    assert "50 kept tokens with `snapkv` †." in accuracy(none, flagged, quiet)
    assert "`snapkv 0.5` † (100 %) loops more than" in looping(none, flagged, quiet)
    assert condition_sentence(flagged).count("**Not valid as evidence about `snapkv`:**") == 1
    assert "`snapkv 0.5` (100 % [76, 100], †)" in block("abstract", "looping", results=[none, flagged])
    noted = make_result("knorm", 0.5, RIGHT, flags=["sink_evicted"])
    assert condition_sentence(noted).endswith(
        " fail catastrophically. Note: the attention sink (first token) was evicted in most heads (12 of "
        "12 runs)."
    )


def test_contrasts_have_a_row_and_a_verdict_each():
    results = [make_result("knorm", 0.25, WRONG, LOUD), make_result("tova", 0.5, RIGHT)]
    contrasts = [
        Contrast(about="The two", first="knorm 0.25", second="tova 0.5"),
        Contrast(about="Turned", first="tova 0.5", second="knorm 0.25"),
        Contrast(about="Itself", first="tova 0.5", second="tova 0.5"),
        Contrast(about="A third", first="knorm 0.25", second="none"),
    ]
    made = compare_conditions(results, contrasts)
    text = block("comparisons", "contrasts", comparisons=made, tables={"contrasts": "x.csv"})
    rows = [line for line in text.split("\n") if line.startswith("| ")][2:]
    assert rows[0].startswith("| The two | `knorm 0.25` | `tova 0.5` | 100/0: +100 [")
    assert [row.rsplit(" | ", 1)[1] for row in rows] == [
        "loops more, solves fewer |",
        "loops less, solves more |",
        "no difference seen |",
    ]
    assert text.endswith("since a condition is missing: `knorm 0.25` against `none`.")
    first = block("abstract", "verdict", contrast=made.contrasts[0])
    assert first.startswith(
        "**The two:** `knorm 0.25` against `tova 0.5`: loops more, solves fewer (looping +100 ["
    )


def abstract(*results):
    baseline, analysis = find_baseline(results), analyse(results)
    weak = baseline is not None and baseline_is_weak(baseline.summary.accuracy.count)
    return block(
        "abstract",
        "lines",
        results=results,
        baseline=baseline,
        weak=weak,
        comparisons=compare_conditions(results),
        claims=[],
        half_accuracies=find_half_accuracies(results),
        analysis=analysis,
        condition=results[0].condition,
        suspect=[result.label for result in results if result.is_invalid],
    ).split("\n")


def test_the_abstract_turns_around():
    none = make_result("none", 0.0, RIGHT)
    few = abstract(none, make_result("knorm", 0.5, WRONG, LOUD))
    assert few[0].endswith("(n = 12); 0 % [0, 24] with `knorm 0.5`.")
    assert (
        few[1]
        == "- **Loops** occur in 1 of 1 compressed conditions, most often with `knorm 0.5` (100 % [76, 100])."
    )
    assert few[-1] == "- **Measured on** `m`, 12 prompts of onestep, 2 conditions."
    knorm = [make_result("knorm", ratio / 10, WRONG if ratio > 5 else RIGHT) for ratio in range(1, 8)]
    tova = [make_result("tova", ratio / 10, WRONG if ratio > 2 else RIGHT) for ratio in range(1, 8)]
    many = abstract(none, *knorm, *tova)
    assert "detectably lower (q < .05) in 7 of 14 compressed conditions" in many[0]
    assert many[0].endswith(
        "Half of it is gone between 40 and 50 kept tokens of 100 with `knorm`, already between 70 and 80 "
        "with `tova`."
    )
    both = abstract(
        none,
        *knorm,
        *(make_result("tova", r.condition.ratio, WRONG if r.condition.ratio > 0.5 else RIGHT) for r in knorm),
    )
    assert both[0].endswith(
        "Half of it is gone between 40 and 50 kept tokens of 100 with `knorm` and `tova`."
    )
    assert many[1] == "- **Loops:** no compressed run loops."
    assert abstract(make_result("none", 0.0, [True] * 5), none)[0].startswith("- **Accuracy cannot tell:**")
    assert "no drop can be stated" in abstract(*knorm)[0]


def test_the_abstract_names_every_uncompressed_condition():
    settings = {"multiturn": False}, {"multiturn": False, "question_position": "first"}
    results = [
        made
        for fields, right in zip(settings, (RIGHT, [True, *RIGHT[1:-1], False]), strict=True)
        for made in (make_result("none", 0.0, right, **fields), make_result("knorm", 0.5, WRONG, **fields))
    ]
    first = abstract(*results)[0]
    assert "100 % [76, 100] with `none`, 92 % [65, 99] with `none (question first)`;" in first
    assert "detectably lower (q < .05) in 2 of 2 compressed conditions, each beside" in first


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
