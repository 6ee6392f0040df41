from types import SimpleNamespace

import pandas as pd

from kvhelpers.guard import thresholds
from kvhelpers.guard.thresholds import folds_of, trained_elsewhere


def test_what_is_learned_elsewhere_has_seen_neither_the_prompt_nor_the_press(monkeypatch):
    monkeypatch.setattr(thresholds, "train", lambda risk, horizon, false_alarms, runs: runs)
    runs = pd.DataFrame(
        {"prompt": prompt, "press": press} for prompt in "abcdefg" for press in ("knorm", "tova", "none")
    )
    folds = folds_of("abcdef", 3)  # g is not guarded
    runs["fold"] = runs["prompt"].map(folds)
    made = dict(trained_elsewhere(SimpleNamespace(runs=runs), 10, 0.1, "tova", folds))
    assert made.keys() == {0, 1, 2}
    for fold, learned in made.items():
        seen = (runs["press"] == "tova") | (runs["fold"] == fold)
        assert (learned == ~seen).all() and learned.sum() == 2 * 5
