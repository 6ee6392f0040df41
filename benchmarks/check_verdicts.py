"""How far verdicts of `kvhelpers check` can be trusted: those of fewer prompts against those of all, on every
pair of committed conditions with the same prompts, in both directions.

A pair has 100 prompts (experiment 006) or 50; of 100, 25 and 50 are drawn, of 50, 25. A contradiction is
`safe` where all prompts say `worse`, or the reverse. Last, both sides of each prompt are swapped at random,
so that nothing differs but by chance: every `worse` is false.

``python benchmarks/check_verdicts.py`` (a few minutes)
"""

import argparse
import itertools

import numpy as np
import pandas as pd

from kvhelpers.compare import changes, condition_set, decide, outcomes, paired
from kvhelpers.compare.verdict import JUDGED, RIGHT, SAFE, UNDECIDED, WORSE
from kvhelpers.errors import InputError
from kvhelpers.experiment.results import read_experiment
from kvhelpers.paths import samples_dir

BINS = [-1.0, -0.25, -0.15, -0.05, 0.05, 0.15, 0.25, 1.01]
NAMES = ["-25 or less", "-25 to -15", "-15 to -5", "-5 to 5", "5 to 15", "15 to 25", "25 or more"]


def pairs():
    """Every two conditions that belong together, in both directions: experiment, base, other, outcomes."""
    for path in sorted(samples_dir().glob("*/experiment.yaml")):
        name = path.parent.name
        sets = [condition_set(result) for result in read_experiment(name, samples_dir())]
        for base, other in itertools.combinations(sets, 2):
            try:
                answers, _ = paired(base, other)
            except InputError:  # other prompts: another setting
                continue
            known = {outcome: both for outcome, both in outcomes(answers).items() if outcome in JUDGED}
            yield name, base.name, other.name, known
            yield name, other.name, base.name, {outcome: both[::-1] for outcome, both in known.items()}


def verdict(known, places):
    """The verdict of some of the prompts."""
    part = {name: (before[places], after[places]) for name, (before, after) in known.items()}
    return decide(changes(part), len(places), int(part[RIGHT][0].sum()))[0]


def swapped(known, rng):
    """The outcomes with base and other swapped for a random half of the prompts."""
    swap = rng.random(len(known[RIGHT][0])) < 0.5
    return {
        name: (np.where(swap, after, before), np.where(swap, before, after))
        for name, (before, after) in known.items()
    }


def contradicts(one, other):
    return {one, other} == {SAFE, WORSE}


def drawn(draws_of_100, draws_of_50, seed=0):
    """A row per pair and draw, and one per pair whose sides were swapped."""
    rng, rows, null = np.random.default_rng(seed), [], []
    for experiment, base, other, known in pairs():
        before, after = known[RIGHT]
        n = len(before)
        if n < 50:
            continue
        of_all, difference = verdict(known, np.arange(n)), float(after.mean() - before.mean())
        null.append({"prompts": n, "verdict": verdict(swapped(known, rng), np.arange(n))})
        for size in (25, 50):
            for _ in range(0 if size == n else draws_of_100 if n == 100 else draws_of_50):
                places = rng.permutation(n)
                one, rest = verdict(known, places[:size]), None
                if 2 * size <= n:
                    rest = verdict(known, places[size : 2 * size])
                row = {"experiment": experiment, "base": base, "other": other, "prompts": n, "drawn": size}
                row |= {"difference": difference, "verdict": one, "of_all": of_all}
                row |= {"contradiction": contradicts(one, of_all), "halves": contradicts(one, rest)}
                rows.append(row | {"decided": one != UNDECIDED})
    return pd.DataFrame(rows), pd.DataFrame(null)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--draws", type=int, default=40, help="of each pair with 100 prompts")
    parser.add_argument("--draws-of-50", type=int, default=4, help="of each pair with 50 prompts")
    options = parser.parse_args()
    rows, null = drawn(options.draws, options.draws_of_50)
    by = ["prompts", "drawn"]
    groups = rows.groupby(by)
    sizes = rows.drop_duplicates(["experiment", "base", "other"])["prompts"].value_counts()
    print(f"pairs: {sizes.to_dict()}; 5 points of margin; shares in %")
    summary = pd.DataFrame(
        {
            "draws": groups.size(),
            "contradict all": 100 * groups["contradiction"].mean(),
            "contradict as many others": 100 * groups["halves"].mean(),
            "decided": 100 * groups["decided"].mean(),
        }
    )
    print(summary.round(2).to_string())
    print("\ndecided, by the difference in points of all prompts (other minus base):")
    rows["points"] = pd.cut((rows["difference"]).round(6), BINS, labels=NAMES, right=False)
    rows.loc[rows["difference"].round(6) == -0.25, "points"] = NAMES[0]
    table = rows.pivot_table(index=by, columns="points", values="decided", observed=True)
    print((100 * table).round(1).to_string())
    far = rows[rows["difference"].abs().round(6) >= 0.25]
    print("\nof pairs that differ by 25 points or more, decided:")
    print((100 * far.groupby(by)["decided"].mean()).round(1).to_string())
    print("\nverdicts of draws (columns) by those of all prompts:")
    print(pd.crosstab([rows["prompts"], rows["drawn"], rows["of_all"]], rows["verdict"]).to_string())
    print("\nsides swapped at random, verdicts of all prompts:")
    print(pd.crosstab(null["prompts"], null["verdict"]).to_string())


if __name__ == "__main__":
    main()
