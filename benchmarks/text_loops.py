"""How loops are found in text without token ids: windows of digits, marks and parts of words, chosen on half
of the committed experiments (odd numbers) by how often they agree with loops in token ids, judged on others.

``python benchmarks/text_loops.py`` (about a minute)
"""

import re

import numpy as np
import pandas as pd

from kvhelpers import frames
from kvhelpers.compare import text_loop
from kvhelpers.compare.answer_sets import REPEATS
from kvhelpers.experiment.results import read_experiment
from kvhelpers.paths import samples_dir
from kvhelpers.scoring import find_window_loop

LETTERS = (4, 5, 6, 7, 8)  # of a word in one piece, at most
WINDOWS = range(16, 23)


def read_runs():
    parts = []
    for path in sorted(samples_dir().glob("*/experiment.yaml")):
        runs = frames.runs(read_experiment(path.parent.name, samples_dir()))
        columns = ["experiment", "model", "text", "looping", "onset_char"]
        parts.append(runs[columns])
    runs = pd.concat(parts, ignore_index=True)
    return runs.assign(fit=runs["experiment"].str[:3].astype(int) % 2 == 1)


def main():
    runs = read_runs()
    truth, fit = runs["looping"].to_numpy(bool), runs["fit"].to_numpy(bool)
    rows = []
    for letters in LETTERS:
        piece = re.compile(rf"\d|[^\W\d_]{{1,{letters}}}|[^\w\s]|_|\n+")
        pieces = [piece.findall(text) for text in runs["text"]]
        for window in WINDOWS:
            found = np.array([find_window_loop(one, window, REPEATS) is not None for one in pieces])
            wrong = found != truth
            row = {"letters": letters, "window": window, "wrong, fit": wrong[fit].sum()}
            row |= {"wrong, judged": wrong[~fit].sum(), "found in vain": (found & ~truth)[~fit].sum()}
            rows.append(row | {"missed": (~found & truth)[~fit].sum()})
    table = pd.DataFrame(rows).sort_values("wrong, fit", kind="stable")
    print(
        f"{fit.sum()} runs to fit, {truth[fit].sum()} loop; {(~fit).sum()} to judge, {truth[~fit].sum()} loop"
    )
    print(table.head(10).to_string(index=False))
    part = runs[~fit].assign(found=[text_loop(text) for text in runs["text"][~fit]])
    print("\nthe rule of kvhelpers.compare on the runs to judge, by model:")
    for model, of_model in part.groupby("model"):
        found, looping = of_model["found"].notna(), of_model["looping"]
        vain, missed = int((found & ~looping).sum()), int((~found & looping).sum())
        print(f"{model}: {len(of_model)} runs, {looping.sum()} loop; {vain} found in vain, {missed} missed")
    both = part[part["looping"] & part["found"].notna()]
    away = (both["found"] - both["onset_char"].astype(float)).abs()
    print(f"onsets differ by {away.median():.0f} characters (median), {away.quantile(0.9):.0f} (nine of ten)")


if __name__ == "__main__":
    main()
