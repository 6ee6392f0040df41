"""Seconds of conditions on the same prompts: each with forward passes of its own, and with shared ones.

python benchmarks/conditions.py
python benchmarks/conditions.py --task gsm8k --data-file GSM8K.jsonl
"""

from __future__ import annotations

import argparse
import time

import pandas as pd
from throughput import FEWSHOT, condition_arguments, machine, parse_press

from kvhelpers.format import markdown_table
from kvhelpers.generation.generate import generate
from kvhelpers.generation.limits import auto_batch_size
from kvhelpers.generation.passes import Passes
from kvhelpers.generation.requests import Request, Settings
from kvhelpers.models.load import LanguageModel, load_model
from kvhelpers.paths import output_root
from kvhelpers.presses.spec import PressSpec
from kvhelpers.tasks.load import load_problems
from kvhelpers.tasks.prompts import build_prompts

PRESSES = ("none", "streaming_llm:0.5", "streaming_llm:0.875", "snapkv:0.5", "snapkv:0.875", "knorm:0.5")


def main() -> None:
    args = arguments()
    lm = load_model(args.model, args.device, args.dtype)
    problems, examples = load_problems(args.task, args.n_prompts, FEWSHOT[args.task], 42, args.data_file)
    prompts = [prompt.token_ids for prompt in build_prompts(problems, examples, lm.tokenizer)]
    print(f"{machine(args)}; {args.task}, {len(prompts)} prompts, {args.max_new_tokens} new tokens\n")
    run(lm, prompts[:2], PressSpec("none", 0.0), 2, None)  # first calls set things up
    shared, rows = Passes.of_several_conditions(lm.device, output_root()), []
    for name in args.press:
        own_s, own = run(lm, prompts, parse_press(name), args.max_new_tokens, None)
        shared_s, tokens = run(lm, prompts, parse_press(name), args.max_new_tokens, shared)
        rows.append((name, own_s, shared_s, sum(own[i] == tokens[i] for i in own)))
        print(f"{name}: {own_s:.1f} s, {shared_s:.1f} s", flush=True)
    rows.append(("all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])))
    table = {
        "condition": [row[0] for row in rows],
        "own passes, s": [f"{row[1]:.1f}" for row in rows],
        "shared passes, s": [f"{row[2]:.1f}" for row in rows],
        "saved": [f"{1 - row[2] / row[1]:.0%}" for row in rows],
        "same tokens": [
            f"{row[3]}/{len(prompts) * (len(args.press) if row[0] == 'all' else 1)}" for row in rows
        ],
    }
    disk = shared.spill.held if shared.spill else 0
    print(f"\n{markdown_table(pd.DataFrame(table))}\n")
    print(f"kept: {shared.held / 2**20:.0f} MiB of memory, {disk / 2**20:.0f} MiB of disk")


def arguments() -> argparse.Namespace:
    parser = condition_arguments(__doc__.splitlines()[0], PRESSES, n_prompts=32, max_new_tokens=256)
    parser.add_argument("--dtype", default="float32")
    return parser.parse_args()


def run(
    lm: LanguageModel, prompts: list[list[int]], spec: PressSpec, new_tokens: int, passes: Passes | None
) -> tuple[float, dict[int, list[int]]]:
    """Seconds of one condition, and each prompt's new tokens."""
    requests = [Request(prompt, spec.for_prompt(len(prompt)), seed) for seed, prompt in enumerate(prompts)]
    settings = Settings(new_tokens, auto_batch_size(lm, max(map(len, prompts)), new_tokens))
    started = time.perf_counter()
    runs = list(generate(lm, requests, settings, passes))
    return time.perf_counter() - started, {run.index: run.token_ids for run in runs}


if __name__ == "__main__":
    main()
