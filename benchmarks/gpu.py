"""Tokens per second on one device at the size of Qwen2.5-3B, with random weights: no hub is needed.

    python benchmarks/gpu.py                     # a GPU: bfloat16, and float32 for the check of tokens
    python benchmarks/gpu.py --shape toy --batch-size 1 4 --new-tokens 16      # anywhere, in seconds

With random weights and tied embeddings an answer soon repeats itself, so drafts are tried on looping text.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from unittest.mock import patch

import methods
import pandas as pd
import torch
from throughput import agreement, machine, peaks
from transformers import Qwen2Config, Qwen2ForCausalLM

from kvhelpers.format import markdown_table
from kvhelpers.generation import batch
from kvhelpers.generation.requests import Request, Settings
from kvhelpers.models.device import TORCH_DTYPES, resolve_device, resolve_dtype
from kvhelpers.models.load import LanguageModel
from kvhelpers.models.packed import pack
from kvhelpers.presses.spec import PressSpec

SHAPES = {
    "qwen2.5-3b": {
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
    },
    "toy": {
        "vocab_size": 300,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}
WAYS = {"plain": (False, False), "graphs": (True, False), "drafts": (False, True), "both": (True, True)}
CHECKED = 4  # prompts whose tokens are compared in float32
PLAIN = PressSpec("none", 0.0)


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    args.device, args.model = resolve_device(args.device), f"{args.shape}, random weights"
    args.dtype = resolve_dtype(args.dtype, args.device)
    print(machine(args))
    prompts = random_prompts(max(args.batch_size), args.prompt_tokens, SHAPES[args.shape]["vocab_size"])
    exact = random_model(args.shape, args.device, "float32")
    alone = methods.one_at_a_time(exact, prompts[:CHECKED], PLAIN, args.new_tokens, 1)
    for name, way in WAYS.items():
        same = agreement(generated(exact, prompts[:CHECKED], args.new_tokens, CHECKED, *way), alone)
        print(f"float32, {name}: {same} prompts have the tokens of generate alone")
    del exact
    print(f"\n{markdown_table(measure(args, prompts))}")
    return 0


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="qwen2.5-3b", choices=SHAPES)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--prompt-tokens", type=int, default=700)
    parser.add_argument("--new-tokens", type=int, default=256)
    return parser.parse_args(argv)


def measure(args: argparse.Namespace, prompts: list[list[int]]) -> pd.DataFrame:
    """One row per way and batch size, beside `generate` for one prompt at a time."""
    lm = random_model(args.shape, args.device, args.dtype)
    copied, _ = peaks(args.device, args.dtype, max(args.batch_size))
    methods.one_at_a_time(lm, prompts[:1], PLAIN, 2, 1)  # first calls set things up
    base = methods.one_at_a_time(lm, prompts[:1], PLAIN, args.new_tokens, 1)
    rows = [{"rows": 1, "way": "generate", "decode tok/s": f"{base.decode_rate:.0f}", "to generate": "1.0×"}]
    for size in args.batch_size:
        for name, way in WAYS.items():
            done = generated(lm, prompts[:size], args.new_tokens, size, *way)
            rows.append(
                {
                    "rows": size,
                    "way": name,
                    "decode tok/s": f"{done.decode_rate:.0f}",
                    "to generate": f"{done.decode_rate / base.decode_rate:.1f}×",
                    "tokens a pass": f"{1 + done.accepted / done.passes:.2f}",
                    "share of bandwidth": f"{done.moved_bytes / copied / done.decode_s:.0%}",
                    "peak memory": f"{done.peak_bytes / 2**20:.0f} MiB",
                }
            )
            print(f"{size} rows, {name}: {done.decode_rate:.0f} tok/s", file=sys.stderr, flush=True)
    return pd.DataFrame(rows).fillna("")


def generated(
    lm: LanguageModel, prompts: list[list[int]], new_tokens: int, rows: int, graphs: bool, drafts: bool
) -> methods.Measured:
    """Our own generation with or without recorded steps and drafts."""
    requests = [Request(prompt, None, seed) for seed, prompt in enumerate(prompts)]
    plainly = nullcontext() if graphs else patch.object(batch, "recorder_for", lambda device: None)
    with plainly:
        return methods.measured(lm, requests, Settings(new_tokens, rows, drafts=drafts))


def random_model(shape: str, device: str, dtype: str) -> LanguageModel:
    """A model of this shape that never ends an answer."""
    torch.manual_seed(0)
    config = Qwen2Config(**SHAPES[shape], tie_word_embeddings=True, max_position_embeddings=32768)
    with torch.device(device):
        model = Qwen2ForCausalLM(config).to(TORCH_DTYPES[dtype]).eval()
    return LanguageModel("random", model, None, frozenset(), device, dtype, "sdpa", "random", pack(model))


def random_prompts(n: int, length: int, vocabulary: int) -> list[list[int]]:
    """Prompts of about so many tokens, each a little shorter than the one before."""
    draw = torch.Generator().manual_seed(1)
    return [torch.randint(vocabulary, (length - i % 16,), generator=draw).tolist() for i in range(n)]


if __name__ == "__main__":
    sys.exit(main())
