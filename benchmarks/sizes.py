"""Tokens per second of `kvhelpers.generation.generate` against the number of prompts, kept tokens and new
tokens.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable

import matplotlib
import methods
import pandas as pd
from matplotlib.figure import Figure

from kvhelpers.format import markdown_table
from kvhelpers.models.load import load_model
from kvhelpers.paths import figures_dir, relative
from kvhelpers.plots import COLOURS, STYLE, save
from kvhelpers.presses.spec import PressSpec
from kvhelpers.tasks.load import load_problems
from kvhelpers.tasks.prompts import build_prompts

BASE = {"prompts": 32, "kept tokens": 256, "new tokens": 64}
VALUES = {
    "prompts": (1, 4, 16, 64, 256),
    "kept tokens": (32, 128, 256, 512),
    "new tokens": (64, 128, 256, 512),
}
EXAMPLES = 10  # makes prompts of about 700 tokens


def measure(model: str, device: str, dtype: str, sizes: dict[str, int]) -> methods.Measured:
    """`onestep` prompts of which StreamingLLM keeps so many tokens; answers that never end, in one batch."""
    lm = dataclasses.replace(load_model(model, device, dtype), stop_ids=frozenset())
    n, press = sizes["prompts"], PressSpec("streaming_llm", budget=sizes["kept tokens"])
    prompts = [p.token_ids for p in build_prompts(*load_problems("onestep", n, EXAMPLES, 42), lm.tokenizer)]
    methods.ours(lm, prompts[:1], press, 2, 1)
    return methods.ours(lm, prompts, press, sizes["new tokens"], n)


def sweep(measure: Callable[[dict[str, int]], methods.Measured]) -> None:
    """Measure while one size varies; print the table and write the figure."""
    rows, seen = [], {}
    for varied, values in VALUES.items():
        for value in values:
            sizes = BASE | {varied: value}
            key = tuple(sizes.values())
            seen[key] = seen.get(key) or measure(sizes)
            rows.append((varied, value, seen[key]))
            print(f"{varied} {value}: {seen[key].decode_rate:.0f} tok/s", file=sys.stderr, flush=True)
    table = pd.DataFrame(
        {
            "varied": varied,
            "value": value,
            "decode tok/s": f"{m.decode_rate:.0f}",
            "end-to-end tok/s": f"{m.rate:.0f}",
            "signals": f"{m.signals_s / m.decode_s:.1%}",
            "peak memory": f"{m.peak_bytes / 2**20:.0f} MiB",
        }
        for varied, value, m in rows
    )
    print(f"\n{_others('')} where not varied\n\n{markdown_table(table)}")
    print(f"\nfigure: {relative(save(_figure(rows), figures_dir('throughput'), 'sizes'))}")


def _others(varied: str) -> str:
    return ", ".join(f"{value} {name}" for name, value in BASE.items() if name != varied)


def _figure(rows: list[tuple[str, int, methods.Measured]]) -> Figure:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.2), layout="constrained")
        for axes, varied in zip(figure.subplots(1, 3, sharey=True), VALUES, strict=True):
            points = [(value, m) for name, value, m in rows if name == varied]
            values = [value for value, _ in points]
            for label, marker, colour in (
                ("decode", "o", COLOURS[0]),
                ("prefill and decode", "s", COLOURS[1]),
            ):
                rates = [m.decode_rate if label == "decode" else m.rate for _, m in points]
                axes.plot(values, rates, marker=marker, color=colour, label=label)
            axes.set_xscale("log", base=2)
            axes.set_xticks(values, [str(value) for value in values])
            axes.set(xlabel=varied, title=f"{_others(varied)}", ylim=(0, None))
            axes.title.set_size("small")
            axes.grid(axis="y", alpha=0.3)
            if varied == "prompts":
                axes.set_ylabel("new tokens per second")
                axes.legend(frameon=False)
    return figure
