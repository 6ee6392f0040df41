"""Cells made for the purpose: outcomes, onsets and signals as a test wants them."""

import numpy as np
import pandas as pd

from kvhelpers import log
from kvhelpers.results import CellResult
from kvhelpers.signals import CANARY
from kvhelpers.summary import summarize

LENGTH = 30


def make_cell(press, ratio, correct, onsets=(), text="some text", flags=(), entropy=None, stops=()):
    """A cell of one run per entry of ``correct``; a run in ``onsets`` loops from there on and never ends.

    ``entropy`` maps prompts to the values of their tokens (30 falling ones where it has none), so that runs may have any
    length; ``stops`` maps prompts to stop reasons other than eos.
    """
    onsets, entropy, stops = dict(onsets), dict(entropy or {}), dict(stops)
    records, frames = [], []
    for index, right in enumerate(correct):
        looping = index in onsets
        values = np.asarray(entropy.get(index, np.linspace(1, 0, LENGTH)), dtype=float)
        stop = "max_new_tokens" if looping else stops.get(index, "eos")
        records.append(
            {
                "prompt_index": index,
                "prompt_id": f"p/{index}",
                "question": "How many coins does Eva have?",
                "reference": "1",
                "text": text,
                "n_tokens": len(values),
                "prompt_tokens": 100,
                "stop_reason": stop,
                "error": "broken" if stop == "error" else None,
                "correct": right,
                "cache": {"kept_tokens": 100 * (1 - ratio), "cache_bytes": 1000},
                "flags": list(flags),
                "loop_onset_char": 4 if looping else None,
                "failures": {
                    "non_termination": stop == "max_new_tokens",
                    "looping": looping,
                    "wrong_answer": not right,
                    "catastrophic": stop == "max_new_tokens" or not right,
                    "loop_onset": onsets.get(index),
                },
            }
        )
        steps = np.arange(len(values))
        columns = {"step": steps, "char_end": np.minimum(steps + 1, len(text)), "entropy": values, "top1_prob": np.exp(-values)}
        columns |= {"token_id": 1000 * index + steps, "chosen_logprob": -values, "varentropy": values}
        constant = {"margin": 1.0, "top5_mass": 1.0, "alt_entropy": 1.0} | dict.fromkeys(CANARY, np.nan)
        frames.append(pd.DataFrame({"prompt_index": index, **columns, **constant}))
    signals = pd.concat(frames, ignore_index=True)
    data = {
        "label": "none" if press == "none" else f"{press} {ratio}",
        "config": {"experiment": "made", "model": "m", "task": "onestep", "press": press, "ratio": ratio, "budget": None}
        | {"press_kwargs": {}, "n_fewshot": 1, "multiturn": True, "n_prompts": len(records), "seed": 1}
        | {"repetition_penalty": 1.0, "max_new_tokens": LENGTH},
        "identity": {"attn": "sdpa", "model_source": "random", "data": "generated"},
        "machine": {"dtype": "float32", "device": "cpu", "system": "Linux", "processor": "x", "cores": 2},
        "versions": {"torch": "2"},
        "config_hash": "0" * 64,
        "seconds": 1.0,
        "examples": [{"question": "Tom has 6 pens. How many?", "solution": "#### 6"}],
        "summary": summarize(records, signals),
        "records": records,
    }

    class Made(CellResult):
        def signals(self, columns=None):
            return signals if columns is None else signals[list(columns)]

    return Made(data, log.log_path("made"))
