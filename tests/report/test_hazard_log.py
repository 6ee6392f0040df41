"""The study's log says what its numbers say, and shows what it names."""

import re

import pytest
from factories_risk import make_looping_study

from kvhelpers.hazard.baselines import PROPOSED
from kvhelpers.hazard.model import read_model
from kvhelpers.hazard.study import UNSEEN, read_study
from kvhelpers.report.figures.hazard import DRAWN
from kvhelpers.report.format import estimate
from kvhelpers.report.hazard_log import (
    alarms_table,
    control_sentence,
    events_table,
    metrics_table,
    model_path,
    result_sentences,
    study_path,
    write_hazard_log,
)
from kvhelpers.stats import Estimate, TokenMetrics


@pytest.fixture(scope="module")
def looping():
    return make_looping_study()


@pytest.fixture(scope="module")
def study(looping):
    return looping[0]


def metrics(value):
    auroc = Estimate(value, value - 0.05, value + 0.05, 100, 10)
    return TokenMetrics(auroc, auroc, None, None, 0.1, 100, 10)


NOTHING = TokenMetrics(None, None, None, None, None, 0, 0)


def sentences(study, **fields):
    return result_sentences(study.model_copy(update=fields)).split("\n")


def test_the_log_holds_the_study_s_numbers(looping, output):
    study, results = looping
    text = write_hazard_log("made-hazard", study, results, "papermill …").read_text()
    proposed = study.methods[PROPOSED]
    assert f"| {PROPOSED} | {estimate(proposed.auroc)} | {estimate(proposed.auroc_same_token)} |" in text
    for name, value in [*study.elsewhere.items(), *study.ablations.items()]:
        assert f"| {name} | {estimate(value.auroc)} |" in text
    assert "| onestep | knorm | 8 | 5 | 0 | 3 | 0 | 0 |" in text
    assert f"- **Runs:** 16 of 8 prompts, from `made`; {study.data.tokens} tokens at risk\n" in text
    assert "- **Left out:** no condition (flags" in text
    assert f"{1000 * study.cost.scoring:.2f} ms a token" in text
    for failure in study.missed:
        highest = f"highest risk {failure.highest:.3f}: `knorm 0.5`, prompt p/{failure.prompt_index}, "
        assert f"loop from token {failure.time}, {highest}" in text
    assert text.count("some⟦loop⟧ text") == 3  # the text of each, its onset marked
    numbered = re.findall(r"^\d+\. (.*)$", text, re.MULTILINE)
    assert numbered == result_sentences(study).split("\n") and control_sentence(study) in text
    assert "nan" not in text and "None" not in text and "\n\n\n" not in text


def test_study_model_and_figures_lie_beside_the_log(looping, output):
    study, results = looping
    text = write_hazard_log("made-hazard", study, results, "papermill …").read_text()
    assert read_model(model_path("made-hazard")) == study.model
    assert read_study(study_path("made-hazard")) == study
    shown = re.findall(r"\]\(\.\./figures/made-hazard/(\w+)\.png\)", text)
    assert sorted(shown) == sorted(DRAWN)
    assert {path.name for path in (output / "figures/made-hazard").iterdir()} == {
        f"{name}.{kind}" for name in DRAWN for kind in ("png", "svg")
    }


def test_sentences_turn_with_the_numbers(study):
    high, low = metrics(0.9), metrics(0.5)

    def first(proposed, **fields):
        return sentences(study, methods=study.methods | {PROPOSED: proposed}, **fields)

    assert (
        "logistic hazard: AUROC 0.90 [0.85, 0.95] reaches the target of 0.88 at horizon 10" in first(high)[0]
    )
    assert "falls short of the target of 0.88" in first(low)[0]
    assert first(NOTHING)[0] == "logistic hazard: no AUROC, since there is nothing to tell apart."
    for ends, words in (
        ((0.1, 0.3), "is above the best baseline"),
        ((-0.3, -0.1), "is below the best baseline"),
        ((-0.1, 0.3), "is not distinguishable from the best baseline"),
    ):
        difference = Estimate(sum(ends) / 2, *ends, 100, 10)
        assert words in first(high, above=dict.fromkeys(study.above, difference))[2]


def test_whole_runs_turn_with_the_numbers(study):
    usual = study.alarms["entropy"][0]

    def alarms(value):
        caught = Estimate(value, value - 0.05, value + 0.05, 100, 10)
        return (usual.model_copy(update={"caught": caught, "wanted": 0.05}),)

    for value, words in ((0.7, "more than"), (0.1, "fewer than"), (0.42, "not clearly more or fewer than")):
        text = "\n".join(sentences(study, alarms={PROPOSED: alarms(value), "entropy": alarms(0.4)}))
        assert "with 5 % false alarms wanted" in text
        assert (
            f"of the failures before their onset, {words} the best baseline, entropy: 40 % [35, 45]" in text
        )


def test_a_missed_target_is_explained_and_a_reached_one_is_not(study):
    both = {"methods": study.methods | {PROPOSED: metrics(0.9)}}
    reached = sentences(study, **both, elsewhere=study.elsewhere | {UNSEEN: metrics(0.9)})
    assert not [sentence for sentence in reached if sentence.startswith(("Features:", "Data:", "Time:"))]
    missed = sentences(
        study,
        **both,
        elsewhere=study.elsewhere | {UNSEEN: metrics(0.5)},
        learning={0.25: metrics(0.5)},
        ablations=study.ablations | {"without rolling": metrics(0.1)},
    )
    text = "\n".join(missed)
    assert "loses most without rolling (0.10 [0.05, 0.15])." in text
    assert "from 25 % to all of the training prompts the AUROC goes from 0.50 [0.45, 0.55] to 0.90" in text
    assert "Time: failures begin at token 14 (median; quartiles 13 and 15)" in text
    assert len(missed) == len(reached) + 3  # one task, one press: no extremes


def test_the_control_turns_with_the_numbers(study):
    def sentence(*control):
        return control_sentence(study.model_copy(update={"control": control}))

    assert "3 times" in sentence(*map(metrics, (0.48, 0.5, 0.53)))
    assert "it holds 0.5, as it must" in sentence(*map(metrics, (0.48, 0.5, 0.53)))
    assert "it does not hold 0.5" in sentence(*map(metrics, (0.9, 0.91, 0.92)))
    assert sentence(NOTHING, NOTHING) == "The shuffled outcomes leave nothing to tell apart."


def test_tables_have_a_dash_where_there_is_no_number(study):
    (row,) = metrics_table({"x": NOTHING}, "Predictor").to_dict("records")
    assert row == {
        "Predictor": "x",
        **dict.fromkeys(("AUROC", "AUROC, same token", "AUPRC", "Base rate", "Brier"), "–"),
        "Tokens": 0,
        "of them positive": 0,
    }
    silent = study.alarms["entropy"][0].model_copy(update={"lead": (), "caught": None, "wanted": 0.01})
    (row,) = alarms_table({"x": (silent,)}).to_dict("records")
    assert row["False alarms wanted"] == "1 %" and row["Lead, tokens: median (quartiles)"] == "–"
    assert row["Failures caught"] == row["n failures"] == "–"
    led = silent.model_copy(update={"lead": (1, 2, 3, 4, 5)})
    assert alarms_table({"x": (led,)})["Lead, tokens: median (quartiles)"][0] == "3 (2, 4)"


def test_events_are_counted_by_task_and_press(study):
    table = events_table(study.data)
    assert list(table) == ["Task", "Press", "Runs", "loop", "overrun", "end", "censored", "no token at risk"]
    assert table[["loop", "overrun", "end", "censored"]].sum(axis=1).tolist() == table["Runs"].tolist()
