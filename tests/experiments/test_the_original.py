"""018: the press of the intervention keeps what it is told to, and what is explained is what was lost."""

import runpy

import numpy as np
import pandas as pd
import pytest
from reference import random_prompts

from kvhelpers.generation.prefill import Prefiller
from kvhelpers.generation.requests import Request
from kvhelpers.paths import experiment_script
from kvhelpers.presses.registry import NONE

SCRIPT = runpy.run_path(str(experiment_script("018-the-original")))
QUESTION, BUDGET = (40, 70), 50  # of 90 tokens
FIRST, GONE, HALF = SCRIPT["WAYS"]


def report(lm, way):
    prompt = random_prompts(2, 110)[1]
    press = SCRIPT["told"](way, BUDGET, len(prompt), QUESTION)
    (left,) = Prefiller(lm, [prompt])([Request(prompt, press, 0, question=QUESTION)])
    return len(prompt), left.report


@pytest.mark.parametrize(("way", "sink", "share"), [(FIRST, 1, 1), (GONE, 0, 1), (HALF, 1, 0.5)])
def test_a_press_that_is_told(tiny, way, sink, share):
    n, left = report(tiny, way)
    needed = n - QUESTION[0] + 1 - (15 if way == HALF else 0) - (way == GONE)
    assert left.sink_kept == sink and left.question_kept == pytest.approx(share)
    assert left.kept_tokens == max(BUDGET, needed)


def made(rng, n=60):
    """Runs of two conditions: a prompt is right where its question is whole, whatever the condition."""
    rows = []
    for condition, chance in (("a 0.5", 0.9), ("b 0.9", 0.2)):
        for prompt in range(n):
            whole = bool(rng.random() < chance)
            rows.append({"condition": condition, "prompt": f"p{prompt}", "correct": whole})
            rows[-1] |= {
                "question_kept": 1.0 if whole else 0.3,
                "kept_tokens": 100 if "a" in condition else 20,
            }
    return pd.DataFrame(rows).assign(press="p", experiment="e", baseline_correct=True, sink_kept=1.0)


def test_what_explains_is_what_was_lost():
    runs = made(np.random.default_rng(0))
    rows = {(row["question"], row["metric"]): row for row in SCRIPT["explained"](runs, "made")}
    losses = {metric: row["estimate"] for (question, metric), row in rows.items() if question == "log-loss"}
    assert losses["question and first token"] < 0.1 < losses["press and ratio"] < losses["nothing"]
    gain = rows["log-loss", "gain of all over question, first token and kept tokens"]
    assert abs(gain["estimate"]) < 0.01 and losses["gain of all over press and ratio"] > 0.2
    assert rows["lost answers", "share that goes with what was lost"]["estimate"] == 1


def test_ours_stand_beside_the_original_s():
    labels = ["none", "snapkv 0.875"]
    runs = pd.DataFrame(
        [
            {"condition": label, "prompt_index": index, "run": f"{label}{index}", "tokens": 300}
            | {"correct": index < 3 and label == NONE, "looping": label != NONE, "non_termination": False}
            for label in labels
            for index in range(20)
        ]
    )
    signals = pd.DataFrame({"run": runs["run"], "largest entropy": 2.0, "smallest top-1": 0.1})
    signals.loc[5, "largest entropy"] = 7.0
    rows = {
        (row["question"], row["subject"], row["metric"]): row
        for row in SCRIPT["beside_the_original"](runs, signals)
    }
    assert rows["all prompts", "none", "right"]["estimate"] == 0.15
    assert (
        rows["first ten", "none", "right"]["estimate"] == 0.3
        and rows["first ten", "none", "right"]["n"] == 10
    )
    assert rows["original", "snapkv 0.875", "loops"]["estimate"] == 1
    assert rows["all prompts", "snapkv 0.875", "loops"]["q"] == 1  # 20 of 20 beside 10 of 10
    assert rows["first ten", "none", "largest entropy"]["estimate"] == 7
