"""How much of a condition moves by rounding: the same runs in batches of another size, and in bfloat16.

python benchmarks/noise_floor.py
python benchmarks/noise_floor.py --task gsm8k --data-file GSM8K.jsonl
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import pandas as pd
from throughput import FEWSHOT, condition_arguments, first_difference, machine, parse_press

from kvhelpers.experiment.condition import make_condition
from kvhelpers.experiment.run import ended, generate_prompts, judged, prompts_of
from kvhelpers.format import markdown_table
from kvhelpers.models.load import LanguageModel, load_model
from kvhelpers.tasks.prompts import Prompt

PRESSES = ("none", "streaming_llm:0.5", "snapkv:0.875")
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Runs:
    """A condition's runs by prompt: their tokens, whether each is right, and whether it loops."""

    tokens: list[list[int]]
    correct: np.ndarray
    looping: np.ndarray


def main() -> None:
    args = arguments()
    runs = {}
    for dtype in DTYPES:
        lm = load_model(args.model, args.device, dtype)
        for press in args.press:
            for size in args.batch_size:
                runs[press, dtype, size] = run(args, lm, press, size)
                print(f"{press}, {dtype}, batches of {size}: done", flush=True)
    small, large = args.batch_size
    exact, rounded = DTYPES
    pairs = {
        f"{exact}, batches of {small} and of {large}": ((exact, small), (exact, large)),
        f"{rounded}, batches of {small} and of {large}": ((rounded, small), (rounded, large)),
        f"{exact} and {rounded}, batches of {large}": ((exact, large), (rounded, large)),
    }
    table = pd.DataFrame(
        {"condition": press, "pair": name} | moved(runs[press, *first], runs[press, *second])
        for press in args.press
        for name, (first, second) in pairs.items()
    )
    here = machine(args, " and ".join(DTYPES))
    print(f"\n{here}; {args.task}, {args.n_prompts} prompts, {args.max_new_tokens} new tokens\n")
    print(markdown_table(table))


def arguments() -> argparse.Namespace:
    parser = condition_arguments(__doc__.splitlines()[0], PRESSES, n_prompts=50, max_new_tokens=160)
    parser.add_argument("--batch-size", type=int, nargs=2, default=[4, 50], metavar=("SMALL", "LARGE"))
    return parser.parse_args()


def run(args: argparse.Namespace, lm: LanguageModel, press: str, batch_size: int) -> Runs:
    """All prompts of a condition, so many rows at once."""
    spec = parse_press(press)
    condition = make_condition(
        {
            "model": args.model,
            "task": args.task,
            "data_file": args.data_file,
            "press": spec.name,
            "ratio": spec.ratio,
            "n_prompts": args.n_prompts,
            "n_fewshot": FEWSHOT[args.task],
            "max_new_tokens": args.max_new_tokens,
            "dtype": lm.dtype,
        }
    )
    prompts = prompts_of(condition, lm)
    tokens, correct, looping = [[]] * len(prompts), *np.zeros((2, len(prompts)), dtype=bool)
    for made in generate_prompts(condition, lm, prompts, batch_size):
        prompt: Prompt = prompts[made.index]
        left, _ = ended(condition, lm, prompt, made)
        score = judged(condition, prompt.id, prompt.reference, left)
        tokens[made.index] = made.token_ids
        correct[made.index], looping[made.index] = score.correct, score.failures.looping
    return Runs(tokens, correct, looping)


def moved(first: Runs, second: Runs) -> dict[str, str]:
    """What differs between two runs of a condition, as a row of the table."""
    pairs = list(zip(first.tokens, second.tokens, strict=True))
    parting = [first_difference(*pair) for pair in pairs if pair[0] != pair[1]]
    tokens = sum(max(map(len, pair)) - common(*pair) for pair in pairs)
    whole = sum(max(map(len, pair)) for pair in pairs)
    return {
        "runs that differ": f"{len(parting)} of {len(pairs)}",
        "tokens that differ": f"{tokens} of {whole}",
        "first at token, median": f"{np.median(parting):.0f}" if parting else "–",
        "right": changes(first.correct, second.correct),
        "loops": changes(first.looping, second.looping),
    }


def common(first: list[int], second: list[int]) -> int:
    """How many tokens are the same at the same place."""
    return sum(a == b for a, b in zip(first, second, strict=False))


def changes(first: np.ndarray, second: np.ndarray) -> str:
    """``46 and 45; +1 −2``: runs with the outcome in each, and how many gained and lost it."""
    gained, lost = (second & ~first).sum(), (first & ~second).sum()
    return f"{first.sum()} and {second.sum()}; +{gained} −{lost}"


if __name__ == "__main__":
    main()
