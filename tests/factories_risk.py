"""Risk sets made for the purpose: runs whose features know of their failure, or do not."""

import numpy as np
import pandas as pd

from kvhelpers.hazard.events import Event
from kvhelpers.hazard.features import NAMES
from kvhelpers.hazard.risk_set import RiskSet

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


class Spy:
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
