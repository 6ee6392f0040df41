"""The study's log says what its numbers say, and shows what it names."""

import re

import pandas as pd
import pytest
from factories_risk import made_metrics as metrics
from factories_risk import make_looping_study, make_scrutiny

from kvhelpers.__main__ import main
from kvhelpers.hazard.baselines import PROPOSED
from kvhelpers.hazard.model import read_model
from kvhelpers.hazard.study import LeftOut, RightEnds, read_study
from kvhelpers.paths import log_path, model_path, results_dir, study_path
from kvhelpers.report.figures.hazard import DRAWN
from kvhelpers.report.format import estimate, points_of
from kvhelpers.report.hazard_log import (
    abstract,
    conclusions,
    control_sentence,
    hazard_log,
    right_ends_sentence,
    save_study,
    write_hazard_log,
)
from kvhelpers.report.hazard_tables import ablation_rows, elsewhere_rows, number_tables
from kvhelpers.stats import Estimate, TokenMetrics


@pytest.fixture(scope="module")
def looping():
    return make_looping_study()


@pytest.fixture(scope="module")
def study(looping):
    return looping[0]


NOTHING = TokenMetrics(None, None, None, None, None, 0, 0)


def changed(shape, **fields):
    return shape.model_copy(update=fields)


def shown(text):
    """What of a log is seen before anything is unfolded."""
    return re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)


def test_the_log_holds_the_study_s_numbers(looping, output):
    study, results = looping
    text = write_hazard_log("made-hazard", study, results).read_text()
    proposed = study.methods[PROPOSED]
    row = f"| {PROPOSED} | {estimate(proposed.auroc_within)} | {estimate(proposed.auroc)} |"
    assert text.count(row) == 2 and shown(text).count(row) == 1
    for name, value in (elsewhere_rows(study.elsewhere) | ablation_rows(study.ablations)).items():
        assert f"| {name} | {estimate(value.auroc_within)} | {estimate(value.auroc)} |" in text
    assert "| onestep of m | knorm | 8 | 5 | 0 | 3 | 0 | 0 |" in text
    assert f"2 conditions; 16 runs of 8 prompts, {study.data.tokens} tokens at risk |" in text
    assert "- Condition" not in text
    assert f"{1000 * study.cost.scoring:.2f} ms a token" in text
    for failure in study.missed:
        highest = f"highest risk {failure.highest:.3f}: `knorm 0.5`, prompt p/{failure.prompt_index}, "
        assert f"loop from token {failure.time}, {highest}" in text
    assert text.count("some⟦loop⟧ text") == 3  # the text of each, its onset marked
    numbered = re.findall(r"^\d+\. (.*)$", text, re.MULTILINE)
    assert numbered == conclusions(study).split("\n") and control_sentence(study) in text
    assert [f"- {line}" for line in abstract(study).split("\n")] == text.split("\n\n")[2].split("\n")
    assert "nan" not in text and "None" not in text and "\n\n\n" not in text
    for name in study.methods:
        assert f"\n- {name}: " in text  # what it knows


def test_the_abstract_has_six_lines_and_comes_first(looping):
    text = hazard_log("made-hazard", *looping)
    title, comment, lines, setup = text.split("\n\n")[:4]
    assert title.startswith("# ") and comment.startswith("<!--") and setup == "## Setup"
    assert len(lines.split("\n")) <= 6
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings == [
        "Setup",
        "Results",
        "Conclusions",
        "Next steps",
        "Details",
    ]
    assert "<summary>What is left out, and why</summary>" in text
    assert len(shown(text).split()) <= 1500


def test_what_is_not_noted_says_so(looping):
    study, results = looping
    nothing = {name: None for name in ("command", "commit", "clean", "processor", "cores", "threads")}
    bare = changed(study, provenance=changed(study.provenance, **nothing, versions={}))
    text = hazard_log("made-hazard", bare, results)
    for row in (
        "| command | `not noted` |",
        "| code | not noted |",
        "| machine | not noted; cores: not noted, threads: not noted |",
        "| packages | not noted |",
    ):
        assert row in text
    made = changed(study.provenance, command="papermill …", commit="0123456789abcdef", clean=False)
    text = hazard_log("made-hazard", changed(study, provenance=made), results)
    assert "| command | `papermill …` |" in text
    assert "| code | commit `0123456789ab`, with changes in `kvhelpers/` |" in text
    assert "`0123456789ab` |" in hazard_log(
        "made-hazard", changed(study, provenance=changed(made, clean=True)), results
    )


def test_conditions_left_out_are_named_with_the_reason(looping):
    study, results = looping
    left = LeftOut(experiment="made", condition="tova 0.5", flags=("not_compressed",))
    text = hazard_log("made-hazard", changed(study, data=changed(study.data, left_out=(left,))), results)
    assert (
        "- Condition `tova 0.5` of `made`: `not_compressed`, compression did not happen: as many tokens"
        in text
    )


def test_a_run_that_is_not_there_is_named_without_its_text(looping):
    study, results = looping
    text = hazard_log("made-hazard", study, results[:1])
    assert text.count("its text is not here.") == 3 and "some⟦loop⟧ text" not in text
    assert f"`knorm 0.5` of `made`, prompt {study.missed[0].prompt_index}; its text" in text


def test_study_model_figures_and_tables_lie_beside_the_log(looping, output):
    study, results = looping
    assert save_study("made-hazard", study) == results_dir("made-hazard")
    text = write_hazard_log("made-hazard", study, results).read_text()
    assert read_model(model_path("made-hazard")) == study.model
    assert read_study(study_path("made-hazard")) == study
    assert sorted(re.findall(r"\]\(\.\./figures/made-hazard/(\w+)\.png\)", text)) == sorted(DRAWN)
    tables = number_tables(study)
    assert sorted(re.findall(r"\]\(\.\./figures/made-hazard/(\w+)\.csv\)", text)) == sorted(tables)
    figures = {f"{name}.{kind}" for name in DRAWN for kind in ("png", "svg")}
    written = {path.name for path in (output / "figures/made-hazard").iterdir()}
    assert written == figures | {f"{name}.csv" for name in tables}


def test_the_tables_as_numbers_are_the_study_s(looping, output):
    study, results = looping
    write_hazard_log("made-hazard", study, results)
    read = {name: pd.read_csv(output / f"figures/made-hazard/{name}.csv") for name in number_tables(study)}
    found = read["predictors"].query("predictor == @PROPOSED and metric == 'auroc'").iloc[0]
    auroc = study.methods[PROPOSED].auroc
    assert found[["estimate", "low", "high"]].tolist() == pytest.approx(
        [auroc.value, auroc.low, auroc.high], rel=1e-5
    )
    assert (found["n"], found["prompts"]) == (auroc.n, auroc.prompts)
    alarms = study.alarms["entropy"][1]
    of_entropy = read["alarms"].query("predictor == 'entropy' and false_alarms_wanted == @alarms.wanted")
    by_metric = of_entropy.set_index("metric")
    assert by_metric.loc["caught", "estimate"] == pytest.approx(alarms.caught.value, rel=1e-5)
    assert by_metric.loc["lead_percentile_50", "n"] == len(alarms.lead)
    assert len(read["control"]) == 5 * len(study.control)
    assert read["learning"]["share_of_training_prompts"].unique().tolist() == [0.25, 0.5, 0.75, 1.0]
    for name, table in read.items():
        if name != "events":
            assert list(table)[-6:] == ["metric", "estimate", "low", "high", "n", "prompts"]


def test_the_log_is_written_again_from_the_stored_study(looping, output, monkeypatch, capsys):
    study, results = looping
    monkeypatch.setattr("kvhelpers.report.hazard_log.finished_results", lambda *_: results)
    save_study("made-hazard", study)
    assert main(["log", "made-hazard"]) == 0
    assert "log: experiments/made-hazard.md" in capsys.readouterr().out
    assert log_path("made-hazard").read_text() == hazard_log("made-hazard", study, results)


def test_a_stored_study_without_its_runs_gets_one_sentence(looping, output, capsys):
    save_study("made-hazard", looping[0])
    assert main(["log", "made-hazard"]) == 2
    assert "experiment 'made' has no finished condition" in capsys.readouterr().err
    study_path("made-hazard").write_text("{}")
    assert main(["log", "made-hazard"]) == 2
    assert "study.json is no study of predictors" in capsys.readouterr().err


def alarms_of(study, proposed, other, wanted=0.1):
    usual = study.alarms["entropy"][0]
    by_name = {PROPOSED: proposed, "entropy": other}
    return {
        name: (usual.model_copy(update={"caught": metrics(value).auroc_within, "wanted": wanted}),)
        for name, value in by_name.items()
    }


@pytest.mark.parametrize(
    ("ends", "caught", "answer", "tokens", "runs"),
    [
        ((0.1, 0.3), 0.7, "**Yes.**", "better than the best", "more failures than"),
        ((0.1, 0.3), 0.42, "**Partly.**", "better than the best", "not clearly more or fewer failures than"),
        ((-0.3, -0.1), 0.1, "**No.**", "less well than the best", "fewer failures than"),
        (
            (-0.1, 0.3),
            0.42,
            "**No.**",
            "not distinguishably better or worse than the best",
            "not clearly more or fewer",
        ),
    ],
)
def test_the_abstract_turns_with_the_numbers(study, ends, caught, answer, tokens, runs):
    difference = Estimate(sum(ends) / 2, *ends, 100, 10)
    text = abstract(
        changed(
            study,
            methods=study.methods | {PROPOSED: metrics(0.9), "entropy": metrics(0.7)},
            above={"entropy": difference},
            above_condition=Estimate(0.1, 0.05, 0.15, 100, 10),
            alarms=alarms_of(study, caught, 0.4),
            caught_above={"entropy": (metrics(caught - 0.4).auroc_within,)},
        )
    )
    first, single, whole, *_ = text.split("\n")
    assert first.startswith(answer) and f"failure {tokens} baseline (it knows the token's entropy)" in first
    assert f"they announce {runs}" in first
    assert "within the next 10 tokens is told with an AUROC of 0.90 [0.85, 0.95]" in single
    assert f"best baseline: 0.70 [0.65, 0.75], difference {estimate(difference)}." in single
    assert "Over all pairs, where knowing the condition helps, it is 0.45 [0.42, " in single
    assert single.endswith("difference 0.10 [0.05, 0.15].")
    assert "of 100 failures are announced" in whole and "best baseline: 40 % [35, 45]" in whole
    assert f"difference {points_of(metrics(caught - 0.4).auroc_within)} points" in whole


def test_where_nothing_can_be_told_the_abstract_says_so(study):
    text = abstract(changed(study, above=dict.fromkeys(study.above)))
    assert text == "**No answer:** these runs leave nothing to tell apart."


def test_conclusions_turn_with_the_numbers(study):
    known = changed(
        study,
        methods=study.methods | {PROPOSED: metrics(0.9)},
        learning={0.25: metrics(0.5)},
        ablations=changed(study.ablations, without={"rolling": metrics(0.1)}),
        elsewhere=changed(study.elsewhere, by_seen_task={"a": metrics(0.6), "b": metrics(0.7)}),
    )
    features, data, tasks, time = conclusions(known).split("\n")  # one press: no extremes
    assert features == (
        "Features: it loses most without the family *rolling*, 0.10 [0.05, 0.15] instead of "
        "0.90 [0.85, 0.95]."
    )
    assert "from 25 % to all of the training prompts AUROC goes from 0.50 [0.45, 0.55] to 0.90" in data
    assert tasks == "Tasks, all seen: worst a (0.60 [0.55, 0.65]), best b (0.70 [0.65, 0.75])."
    assert "half of the failures begin by token 14 (quartiles 13 and 15)" in time


def test_a_scrutiny_is_shown_where_there_is_one(looping, output):
    study, results = looping
    bare = hazard_log("made-hazard", study, results)
    assert "oracle" not in bare and "published" not in bare
    scrutinized = changed(study, scrutiny=make_scrutiny())
    text = write_hazard_log("made-hazard", scrutinized, results).read_text()
    pooled = "0.96 [0.91, 1.01] | 0.86 [0.81, 0.91]"
    assert f"| all as published | 9 | – | {pooled} | 0.48 [0.43, 0.53] |" in text
    assert "| loops of 10 tokens | 7 | – | 0.60 [0.55, 0.65] | 0.70 [0.65, 0.75] |" in text
    more = metrics(0.7)
    row = f"| the run and more | {estimate(more.auroc_within)} | {estimate(more.auroc)} |"
    assert text.count(row) == 2
    definitions, knowledge = (
        line for line in conclusions(scrutinized).split("\n") if "that nobody" in line or "others" in line
    )
    assert "of 0.96 [0.91, 1.01] at horizon 10; by those of this log 0.60 [0.55, 0.65], and" in definitions
    assert definitions.endswith("within condition and token 0.30 [0.25, 0.35].")
    assert knowledge.endswith("the logistic hazard gains 0.10 [0.05, 0.15] on compressed runs.")
    nothing = Estimate(0.1, -0.05, 0.15, 100, 10)
    oracle = changed(scrutinized.scrutiny.onsets_oracle, gain={"trees": nothing})
    unclear = changed(study, scrutiny=changed(scrutinized.scrutiny, onsets_oracle=oracle))
    assert "the trees gains 0.10 [-0.05, 0.15] on compressed runs, which is not dist" in conclusions(unclear)
    shown = re.findall(r"\]\(\.\./figures/made-hazard/(\w+)\.(?:png|csv)\)", text)
    assert {"published", "varied", "oracle", "oracle_gains"} < set(shown)
    assert {"published.png", "varied.csv", "oracle.csv"} < {
        p.name for p in (output / "figures/made-hazard").iterdir()
    }


def test_right_ends_turn_with_the_numbers(study):
    def sentence(**ends):
        of = {"methods": {PROPOSED: metrics(0.6)}, "runs_within": {}, "among_ended": NOTHING}
        of |= {"by_task": {}, "ended_by_task": {}}
        return right_ends_sentence(changed(study, right_ends=RightEnds(**of | ends)))

    assert sentence() == (
        "Whether a run will do anything but end by itself with the right answer is told with an AUROC of "
        "0.60 [0.55, 0.65] within condition and token."
    )
    tasks = {"a": metrics(0.7), "b": metrics(0.5)}
    told = sentence(by_task=tasks, among_ended=metrics(0.55), ended_by_task=tasks | {"c": NOTHING})
    by_task = "(a: 0.70 [0.65, 0.75], b: 0.50 [0.45, 0.55])."
    assert f"within condition and token {by_task} Among" in told
    assert told.endswith(f"wrong from right answers: 0.55 [0.50, 0.60] {by_task}")
    assert sentence(methods={PROPOSED: NOTHING}).startswith("No two comparable runs")


def test_the_control_turns_with_the_numbers(study):
    def sentence(*control):
        return control_sentence(study.model_copy(update={"control": control}))

    assert "3 times" in sentence(*map(metrics, (0.48, 0.5, 0.53)))
    assert "it holds 0.5, as it must" in sentence(*map(metrics, (0.48, 0.5, 0.53)))
    assert "it does not hold 0.5" in sentence(*map(metrics, (0.9, 0.91, 0.92)))
    assert sentence(NOTHING, NOTHING) == "The shuffled outcomes leave nothing to tell apart."
