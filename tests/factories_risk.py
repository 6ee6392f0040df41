"""Risk sets made for the purpose: runs whose features know of their failure, or do not."""

import numpy as np
import pandas as pd
from factories import make_result

from kvhelpers.hazard.events import Event
from kvhelpers.hazard.features import NAMES
from kvhelpers.hazard.predictors import Predictor
from kvhelpers.hazard.risk_set import RiskSet, build
from kvhelpers.hazard.scrutiny import Oracle, PublishedStep, Scrutiny, VariedDefinition
from kvhelpers.hazard.study import StudySettings, make_study
from kvhelpers.stats import Estimate, TokenMetrics

PRESSES = ("none", "knorm", "tova")


def make_risk(n_prompts=24, known=True, tokens=30, seed=0):
    """Two runs of each prompt under each press, half of which loop somewhere between tokens 8 and 28.

    All features are noise; if ``known``, entropy rises by 3 within the ten tokens before an onset.
    """
    rng = np.random.default_rng(seed)
    rows, run, step, features = [], [], [], []
    for prompt in range(n_prompts):
        for press in PRESSES:
            for copy in range(2):
                failed = press != "none" and copy == 0
                time = int(rng.integers(8, 28)) if failed else tokens - 1
                rows.append(
                    {
                        "experiment": "made",
                        "task": f"task{prompt % 2}",
                        "condition": press,
                        "press": press,
                        "removed": 0.5,
                    }
                    | {"prompt": f"p/{prompt}", "prompt_index": prompt, "tokens": tokens, "time": time}
                    | {
                        "event": Event.LOOP if failed else Event.END,
                        "failed": failed,
                        "correct": not failed,
                        "stopped": False,
                    }
                )
                steps = np.arange(1, time)
                part = rng.normal(size=(len(steps), len(NAMES))).astype(np.float32)
                if known and failed:
                    part[steps > time - 10, NAMES.index("entropy")] += 3
                given = [[0.5, *(press == name for name in PRESSES)]] * len(steps)
                run += [len(rows) - 1] * len(steps)
                step.append(steps)
                features.append(np.concatenate([part, np.array(given, dtype=np.float32)], axis=1))
    names = (*NAMES, "removed", *(f"press_{press}" for press in PRESSES))
    return RiskSet(pd.DataFrame(rows), np.array(run), np.concatenate(step), np.concatenate(features), names)


def make_looping_study():
    """A small study of a condition whose runs 0 to 4 loop from tokens 12 to 16, where entropy has risen; and
    its conditions.
    """
    rng = np.random.default_rng(0)
    entropy = {index: np.concatenate([rng.random(8), 5 + rng.random(22)]) for index in range(8)}
    results = [
        make_result("none", 0.0, [True] * 8),
        make_result("knorm", 0.5, [False] * 8, {index: 12 + index for index in range(5)}, entropy=entropy),
    ]
    return make_study(build(results), results, StudySettings(folds=2), progress=False), results


def made_metrics(value):
    """Token metrics with this AUROC within condition and token, and half of it over all pairs."""
    within = Estimate(value, value - 0.05, value + 0.05, 100, 10)
    pooled = Estimate(within.value / 2, within.low / 2, within.high / 2, 100, 10)
    return TokenMetrics(pooled, within, None, None, 0.1, 100, 10)


def make_scrutiny():
    """A scrutiny with numbers that are easy to tell apart; one of them is missing."""
    steps = (("all as published", 0.96), ("something else", 0.8), ("as here", 0.6))
    methods = {"the run": made_metrics(0.6), "the run and more": made_metrics(0.7)}
    oracle = Oracle(methods=methods, gain={"logistic hazard": Estimate(0.1, 0.05, 0.15, 100, 10)})

    def of(value):
        return made_metrics(value).auroc_within

    return Scrutiny(
        published=[
            PublishedStep(
                change=change,
                failures=9,
                pooled={1: None, 10: of(value), 50: of(value - 0.1)},
                within={1: None, 10: of(value / 2), 50: of(value / 2)},
            )
            for change, value in steps
        ],
        varied=[
            VariedDefinition(definition=name, failures=7, within={5: None, 10: of(0.6), 32: of(0.7)})
            for name in ("as in this study", "loops of 10 tokens")
        ],
        onsets_oracle=oracle,
        right_ends_oracle=oracle,
    )


class Spy(Predictor):
    """A predictor that notes whose runs it was trained on and whose it scored, and knows nothing."""

    def __init__(self):
        self.seen = []

    def fit(self, risk, train):
        self.trained = risk.runs.loc[np.unique(risk.run[train])]
        return self

    def score(self, risk):
        tested = risk.runs.loc[np.unique(risk.run)]
        names = ("prompt", "press", "task")
        self.seen.append({name: (set(self.trained[name]), set(tested[name])) for name in names})
        return np.zeros(len(risk.run))

    def is_disjoint(self, name):
        """Whether no prompt (or press, or task) was on both sides, ever."""
        return all(not trained & tested for trained, tested in (seen[name] for seen in self.seen))
