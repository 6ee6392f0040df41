"""How often a 95 % interval holds the true value: simulated experiments whose truth is known, with this
package's expanded percentiles of the bootstrap over prompts, with plain percentiles, and with scipy's BCa.

python benchmarks/interval_coverage.py
python benchmarks/interval_coverage.py --prompts 20 50 --experiments 1000
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

from kvhelpers.format import markdown_table
from kvhelpers.stats import RESAMPLES, draw, intervals, wilson

Ends = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Case:
    """Experiments whose statistic is a sum over a sum of the prompts' values.

    ``make(rng, shape)`` gives numerators and denominators ``[experiments, prompts]``; ``truth`` is what the
    ratio comes to with ever more prompts; a ``share`` has Wilson's interval where all runs agree, as
    `kvhelpers.stats.proportion`.
    """

    name: str
    truth: float
    make: Callable[[np.random.Generator, tuple[int, int]], tuple[np.ndarray, np.ndarray]]
    share: bool = False


def _one_run(rate: float) -> Case:
    def make(rng, shape):
        return (rng.random(shape) < rate).astype(float), np.ones(shape)

    return Case(f"share of {rate}, one run a prompt", rate, make, share=True)


def _several_runs(rate: float) -> Case:
    """One to six runs a prompt, whose chances differ between prompts by a beta distribution."""

    def make(rng, shape):
        runs = rng.integers(1, 7, shape)
        return rng.binomial(runs, rng.beta(rate, 1 - rate, shape)).astype(float), runs.astype(float)

    return Case(f"share of {rate}, one to six runs a prompt that are alike", rate, make, share=True)


def _difference(rng, shape):
    drawn = rng.random(shape)
    return np.where(drawn < 0.25, 1.0, np.where(drawn < 0.35, -1.0, 0.0)), np.ones(shape)


CASES = (
    _one_run(0.07),
    _one_run(0.3),
    _one_run(0.5),
    _several_runs(0.1),
    _several_runs(0.5),
    Case("difference of two conditions, +25 −10 points", 0.15, _difference),
    Case("mean, exponential", 1.0, lambda rng, shape: (rng.exponential(1, shape), np.ones(shape))),
    Case("mean, lognormal", np.exp(0.5), lambda rng, shape: (rng.lognormal(0, 1, shape), np.ones(shape))),
)


def ratio(numerator: np.ndarray, denominator: np.ndarray, axis: int = -1) -> np.ndarray:
    return numerator.sum(axis) / denominator.sum(axis)


def weighted(numerator: np.ndarray, denominator: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """All experiments at once, on the same draws: weights ``[draws, prompts]`` to values
    ``[draws, experiments]``.
    """
    return lambda weights: (weights @ numerator.T) / (weights @ denominator.T)


def expanded(numerator: np.ndarray, denominator: np.ndarray) -> Ends:
    """This package's intervals."""
    _, low, high = intervals(weighted(numerator, denominator), _prompts(numerator))
    return low, high


def percentile(numerator: np.ndarray, denominator: np.ndarray) -> Ends:
    """The same draws without the correction for few prompts (Efron 1979,
    https://doi.org/10.1214/aos/1176344552).
    """
    _, drawn = draw(weighted(numerator, denominator), _prompts(numerator))
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return low, high


def bca(numerator: np.ndarray, denominator: np.ndarray) -> Ends:
    """scipy's bias-corrected and accelerated intervals."""
    made = bootstrap(
        (numerator, denominator), ratio, paired=True, axis=-1, n_resamples=RESAMPLES, batch=100,
        method="BCa", rng=0,
    )  # fmt: skip
    return made.confidence_interval.low, made.confidence_interval.high


METHODS = {"expanded percentile (this package)": expanded, "percentile": percentile, "BCa": bca}


def _prompts(values: np.ndarray) -> list[str]:
    return [str(index) for index in range(values.shape[1])]


def covered(case: Case, prompts: int, experiments: int, method: str, seed: int = 0) -> float:
    """The share of simulated experiments whose interval holds the truth."""
    numerator, denominator = case.make(np.random.default_rng(seed), (experiments, prompts))
    with np.errstate(all="ignore"):
        low, high = METHODS[method](numerator, denominator)
    if case.share:
        low, high = low.copy(), high.copy()
        for value, count in ((0.0, 0), (1.0, prompts)):
            same = ratio(numerator, denominator) == value
            agreed = wilson(count, prompts)
            low[same], high[same] = agreed.low, agreed.high
    slack = 1e-9  # a share of 6 in 20 is .3, whatever its last bit
    return float(((low <= case.truth + slack) & (high >= case.truth - slack)).mean())


def table(numbers: list[int], experiments: int) -> Iterator[dict[str, object]]:
    for case in CASES:
        for prompts in numbers:
            shares = {name: f"{covered(case, prompts, experiments, name):.3f}" for name in METHODS}
            yield {"statistic": case.name, "prompts": prompts, **shares}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--prompts", type=int, nargs="+", default=[20, 50, 100])
    parser.add_argument("--experiments", type=int, default=1000)
    args = parser.parse_args()
    print(markdown_table(pd.DataFrame(table(args.prompts, args.experiments))))


if __name__ == "__main__":
    main()
