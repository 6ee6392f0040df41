"""What each family of inner signals would cost a run while it goes on: milliseconds a token and row beside
those of decoding, and memory a row, for one row and for a batch.

``python benchmarks/inner_signals.py --model smollm2-135m --rows 1 32``

Each family is what its signal needs at one step, timed by itself on real tensors of this model: a prompt of
``--prompt`` tokens under SnapKV at .875, ``--past`` new tokens so far. *sparse* is a pass of 8 tokens over
the full cache, every 8 tokens. *evicted* is once a run, here shared out over ``--past`` tokens.
"""

import argparse
import time

import kvpress
import pandas as pd
import torch

from kvhelpers.generation.generate import generate
from kvhelpers.generation.inner_signals import course, evicted
from kvhelpers.generation.replay import Replayer, Watched, attention
from kvhelpers.generation.requests import Request, Settings
from kvhelpers.models.load import load_model
from kvhelpers.records import FIRST_COMPRESSED_TOKEN

EVERY, REPEATS = 8, 5


def timed(function) -> float:
    """The fastest of some calls, in seconds, after one to warm up."""
    function()
    spent = []
    for _ in range(REPEATS):
        since = time.perf_counter()
        function()
        spent.append(time.perf_counter() - since)
    return min(spent)


@torch.inference_mode()
def costs(lm, rows: int, prompt: int, past: int) -> pd.DataFrame:
    """One line per family, the first for decoding itself: ``ms`` a token and row, share ``of_decoding``,
    ``KiB`` a row.
    """
    draw = torch.Generator().manual_seed(0)
    texts = torch.randint(1000, 20000, (rows, prompt), generator=draw).tolist()
    press = kvpress.SnapKVPress(compression_ratio=0.875)
    requests = [Request(text, press, 0) for text in texts]

    def decode(tokens):
        settings = Settings(max_new_tokens=tokens, batch_size=rows, drafts=False)
        return sum(len(run.token_ids) for run in generate(lm, requests, settings))

    short, long = FIRST_COMPRESSED_TOKEN, FIRST_COMPRESSED_TOKEN + 32
    step = (timed(lambda: decode(long)) - timed(lambda: decode(short))) / (decode(long) - decode(short))

    replayer = Replayer(lm, texts)
    start = replayer.prefill(requests[0])
    answer = torch.randint(1000, 20000, (past,), generator=draw).tolist()
    run = replayer.feed(start.compressed, answer, prompt, watch=True)
    vocabulary, width = run.logits.shape[1], run.hidden[replayer.middle].shape[1]
    logits = torch.randn(rows + 1, vocabulary, generator=draw)
    now = torch.randn(2, rows, width, 1, generator=draw)
    before = torch.randn(2, rows, past, width, generator=draw)
    noted = {layer: watched.last(1) for layer, watched in start.last.items()}
    inputs = {
        layer: Watched(watched.inputs.expand(rows, -1, -1), watched.rotary)
        for layer, watched in noted.items()
    }

    def attend():
        for layer, watched in inputs.items():
            keys = start.compressed.layers[layer].keys[0]
            for row in range(rows):
                attention(
                    replayer.modules[layer], Watched(watched.inputs[row : row + 1], watched.rotary), keys
                )

    def compare():
        """The full cache of one row, after which it is as long as before."""
        replayer.feed(start.full, answer[: EVERY + 1], prompt, watch=False)
        for layer in start.full.layers:
            layer.keys, layer.values = layer.keys[:, :, :prompt], layer.values[:, :, :prompt]

    full = sum(keys.nbytes + values.nbytes for keys, values in zip(start.keys, start.values, strict=True))
    spent = {
        "decoding": (step, 0),
        "course": (timed(lambda: course(logits)) / rows, 4 * vocabulary),
        "inside": (timed(lambda: before @ now) / rows, 2 * past * width * 4),
        "attention": (timed(attend) / rows, 0),
        "sparse": (timed(compare) / EVERY, full),
        "evicted": (timed(lambda: evicted(replayer, start)) / past, 0),
    }
    return pd.DataFrame(
        [
            {"rows": rows, "family": name, "ms": 1000 * s, "of_decoding": s / step, "KiB": nbytes / 1024}
            for name, (s, nbytes) in spent.items()
        ]
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--prompt", type=int, default=400)
    parser.add_argument("--past", type=int, default=100)
    options = parser.parse_args()
    lm = load_model(options.model)
    tables = [costs(lm, rows, options.prompt, options.past) for rows in options.rows]
    print(pd.concat(tables).to_string(index=False, float_format=lambda value: f"{value:.3f}"))


if __name__ == "__main__":
    main()
