"""Tokens per second of compressed generation with signals, side by side with what people use today.

    python benchmarks/throughput.py --dtype float32                      # the methods side by side
    python benchmarks/throughput.py --dtype float32 --sweep              # the figure: tokens/s against size
    python benchmarks/throughput.py --products                           # plain and packed weights

Each line of the table is measured in a process of its own, one after the other, on the same prompts.
"""

from __future__ import annotations

import argparse
import platform
import re
import sys
import time
import timeit
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import methods
import pandas as pd
import sizes
import torch

from kvhelpers.errors import InputError
from kvhelpers.format import markdown_table
from kvhelpers.models.device import resolve_device, resolve_dtype
from kvhelpers.models.load import load_model
from kvhelpers.models.packed import pack, using
from kvhelpers.presses.registry import NONE
from kvhelpers.presses.spec import PressSpec
from kvhelpers.tasks.load import load_problems
from kvhelpers.tasks.prompts import build_prompts

METHODS = {
    "one_at_a_time": "(a) generate, one at a time",
    "kvpress_pipeline": "(b) kvpress pipeline",
    "batched_generate": "(c) generate, batched, no press",
    "prompt_lookup": "(p) generate, one at a time, prompt lookup",
    "ours": "(d) kvhelpers",
    "static_batches": "(e) kvhelpers, each batch to its end",
    "with_canary": "(f) kvhelpers, with the canary",
    "without_drafts": "(n) kvhelpers, without drafts",
    "plain_weights": "(w) kvhelpers, without drafts and packed weights",
}
WITHOUT_PRESS = ("batched_generate", "prompt_lookup")
SINGLY = ("one_at_a_time", "kvpress_pipeline", "prompt_lookup")
WEIGHTS = ((576, 1536), (1536, 576), (576, 49152), (1536, 1536), (1536, 8960), (8960, 1536))
FEWSHOT = {"onestep": 4, "gsm8k": 3}


def main() -> int:
    args = arguments()
    try:
        print(machine(args), flush=True)
        if args.products:
            print(f"\n{markdown_table(products())}")
        elif args.sweep:
            sizes.sweep(partial(in_a_process, sizes.measure, args.model, args.device, args.dtype))
        else:
            compare(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--task", nargs="+", default=["onestep"], choices=FEWSHOT)
    parser.add_argument("--data-file", help="local GSM8K file, for task gsm8k without a hub")
    parser.add_argument(
        "--press", nargs="+", default=["none", "streaming_llm:0.5"], help="name or name:ratio"
    )
    parser.add_argument("--method", nargs="+", default=list(METHODS)[:5], choices=METHODS)
    parser.add_argument("--n-prompts", type=int, default=32)
    parser.add_argument(
        "--alone", type=int, help="prompts for (a) and (b), which take long; their rates hardly depend on it"
    )
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument(
        "--sweep", action="store_true", help="vary prompts, kept tokens and new tokens instead"
    )
    parser.add_argument(
        "--products", action="store_true", help="measure products with plain and packed weights instead"
    )
    return parser.parse_args()


def compare(args: argparse.Namespace) -> None:
    """Print the table: every method on every task and press."""
    copied, products = limits = in_a_process(peaks, args.device, args.dtype, args.batch_size)
    print(
        f"\nmeasured limits: {copied / 1e9:.0f} GB/s copied (read and written), "
        f"{products / 1e9:.0f} GFLOP/s in products of {args.batch_size} rows with weights\n"
    )
    for task in args.task:
        for press in args.press:
            spec = parse_press(press)
            print(
                f"### {task}, {press}, {args.n_prompts} prompts, at most {args.max_new_tokens} new tokens\n",
                flush=True,
            )
            done: dict[str, methods.Measured] = {}
            for method in args.method:
                if method in WITHOUT_PRESS and spec.name != NONE:
                    continue
                n = args.alone if args.alone and method in SINGLY else args.n_prompts
                done[method] = in_a_process(measure, method, args, task, spec, n)
                print(f"{METHODS[method]}: done", file=sys.stderr, flush=True)
            print(markdown_table(table(done)))
            for line in remarks(done, limits):
                print(f"\n{line}", flush=True)
            print()


def table(done: dict[str, methods.Measured]) -> pd.DataFrame:
    """One row per method; ratios to (a)."""
    base = done.get("one_at_a_time")
    rows = []
    for method, m in done.items():
        same = "" if base is None or method == "one_at_a_time" or not m.tokens else agreement(m, base)
        rows.append(
            {
                "method": METHODS[method],
                "prompts": m.prompts,
                "new tokens": m.new_tokens,
                "decode tok/s": f"{m.decode_rate:.0f}",
                "to (a)": f"{m.decode_rate / base.decode_rate:.1f}×" if base else "",
                "end-to-end tok/s": f"{m.rate:.0f}",
                "to (a), end to end": f"{m.rate / base.rate:.1f}×" if base else "",
                "prefill s/prompt": f"{m.prefill_s / m.prompts:.2f}",
                "signals": f"{m.signals_s / m.decode_s:.1%}" if m.signals_s else "–",
                "tokens a pass": f"{1 + m.accepted / m.passes:.2f}" if m.passes else "",
                "drafts accepted": f"{m.accepted / m.drafted:.0%}" if m.drafted else "",
                "peak memory": f"{m.peak_bytes / 2**20:.0f} MiB",
                "same tokens as (a)": same,
            }
        )
    return pd.DataFrame(rows)


def agreement(m: methods.Measured, base: methods.Measured) -> str:
    """How many prompts have the tokens of (a)."""
    return f"{sum(m.tokens[i] == base.tokens[i] for i in base.tokens)}/{len(base.tokens)}"


def remarks(done: dict[str, methods.Measured], limits: tuple[float, float]) -> list[str]:
    """What the table cannot say: how near the machine's limits, and where tokens part."""
    if (ours := done.get("ours")) is None:
        return []
    moving, computing = ours.moved_bytes / limits[0], ours.flops / limits[1]
    lines = [
        f"Decoding took {ours.decode_s:.1f} s. Reading weights and caches at the speed of a copy would take "
        f"{moving:.1f} s ({moving / ours.decode_s:.0%} of the bandwidth limit); the products with weights, "
        f"at the speed above, {computing:.1f} s ({computing / ours.decode_s:.0%} of the compute limit)."
    ]
    base = done.get("one_at_a_time")
    parted = {i: first_difference(ours.tokens[i], base.tokens[i]) for i in base.tokens} if base else {}
    parted = {i: at for i, at in parted.items() if at is not None}
    if parted:
        margins = [ours.margins[i][at] for i, at in parted.items() if at < len(ours.margins[i])]
        places = list(parted.values())
        apart = f"{min(margins):.3f} to {max(margins):.3f} (median {median(margins):.3f})"
        lines.append(
            f"(d) parts from (a) in {len(parted)} prompts, at new token {min(places)} to {max(places)} "
            f"(median {median(places):.0f}); the two best tokens are {apart} nats apart there."
        )
    return lines


def first_difference(first: list[int], second: list[int]) -> int | None:
    """Index of the first token that differs, or None."""
    if first == second:
        return None
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def condition_arguments(
    description: str, presses: Sequence[str], n_prompts: int, max_new_tokens: int
) -> argparse.ArgumentParser:
    """A parser of what says which conditions run, with these defaults."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--task", default="onestep", choices=FEWSHOT)
    parser.add_argument("--data-file", help="local GSM8K file, for task gsm8k without a hub")
    parser.add_argument("--press", nargs="+", default=list(presses), help="name or name:ratio")
    parser.add_argument("--n-prompts", type=int, default=n_prompts)
    parser.add_argument("--max-new-tokens", type=int, default=max_new_tokens)
    return parser


def machine(args: argparse.Namespace, dtype: str | None = None) -> str:
    """What is measured on; ``dtype`` if it is not the arguments' own."""
    device = resolve_device(args.device)
    if device == "cuda":
        name = torch.cuda.get_device_name()
    else:
        cpuinfo = Path("/proc/cpuinfo")
        text = cpuinfo.read_text() if cpuinfo.exists() else ""
        model_name = re.search(r"model name\s*: (.*)", text)
        units = [
            unit
            for unit in ("amx_bf16", "avx512_bf16", "avx512f", "avx2")
            if f" {unit} " in text.replace("\n", " ")
        ]
        processor = model_name[1] if model_name else platform.processor()
        name = f"{processor} ({', '.join(units[:2])}), {torch.get_num_threads()} threads"
    dtype = dtype or resolve_dtype(args.dtype, device)
    return f"{name}; {args.model}, {dtype}; torch {torch.__version__}; {time.strftime('%Y-%m-%d')}"


def peaks(device: str, dtype: str, rows: int) -> tuple[float, float]:
    """Bytes per second of a copy (read and written), and operations per second of a product of ``rows`` rows
    with weights.
    """
    device = resolve_device(device)
    kind, clock = getattr(torch, resolve_dtype(dtype, device)), methods.Clock(device)
    source = torch.ones(1 << 28, dtype=torch.uint8, device=device)
    target, size = torch.zeros_like(source), 2048
    inputs = torch.ones(rows, size, dtype=kind, device=device)
    weights = torch.nn.Linear(size, size, bias=False, dtype=kind, device=device)

    def best(function):
        seconds: list[float] = []
        for _ in range(5):
            started = clock()
            function()
            seconds.append(clock() - started)
        return min(seconds)

    copied = 2 * source.nbytes / best(lambda: target.copy_(source))
    with torch.inference_mode(), using(pack(weights)):
        return copied, 2 * rows * size**2 / best(lambda: weights(inputs))


def products() -> pd.DataFrame:
    """GFLOP/s of float32 products with weights of the known models, plain → packed, by number of rows."""
    rows = []
    for inputs, outputs in WEIGHTS:
        layer = torch.nn.Linear(inputs, outputs, bias=False)
        packed = pack(layer)
        row = {"weights": f"{inputs} × {outputs}"}
        for n in (1, 8, 16, 32, 64, 256):
            rates, one = [], torch.ones(n, inputs)
            for weights in (None, packed):
                with torch.inference_mode(), using(weights):
                    seconds = min(timeit.repeat(partial(layer, one), number=10, repeat=5)) / 10
                rates.append(f"{2 * n * inputs * outputs / seconds / 1e9:.0f}")
            row[f"{n} rows"] = " → ".join(rates)
        rows.append(row)
    return pd.DataFrame(rows)


def parse_press(text: str) -> PressSpec:
    """A press from ``name`` or ``name:ratio``."""
    name, _, ratio = text.partition(":")
    try:
        spec = PressSpec(name, float(ratio) if ratio else 0.0 if name == NONE else 0.875)
    except ValueError as error:
        raise InputError(
            f"press {text!r} has no number after its colon; write for example streaming_llm:0.5"
        ) from error
    spec.check_build()
    return spec


def measure(
    method: str, args: argparse.Namespace, task: str, spec: PressSpec, n_prompts: int
) -> methods.Measured:
    """Load the model and run one method on the first ``n_prompts`` of the prompts."""
    lm = load_model(args.model, args.device, args.dtype, spec.attention())
    problems, examples = load_problems(
        task, args.n_prompts, FEWSHOT[task], 42, args.data_file if task == "gsm8k" else None
    )
    prompts = [prompt.token_ids for prompt in build_prompts(problems, examples, lm.tokenizer)][:n_prompts]
    run = getattr(methods, method)
    run(lm, prompts[:1], spec, 2, 1)  # first calls set things up
    return run(lm, prompts, spec, args.max_new_tokens, args.batch_size)


def in_a_process(function, *args):
    """Call ``function`` in a fresh process, so that memory and warm-up are its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


if __name__ == "__main__":
    sys.exit(main())
