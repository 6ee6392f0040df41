"""Run one cell: task → generation → failures → results, resumable at every prompt."""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd
import pyarrow as pa
import torch
from tqdm import tqdm

from kvhelpers.batching import auto_batch_size
from kvhelpers.cachereport import observation_window
from kvhelpers.config import SCHEMA_VERSION, CellConfig
from kvhelpers.errors import InputError
from kvhelpers.generation import Generation, generate
from kvhelpers.models import LanguageModel, load_model
from kvhelpers.presses import phases
from kvhelpers.results import CellResult, Checkpoint, find_finished, write_cell
from kvhelpers.scoring import score
from kvhelpers.summary import summarize
from kvhelpers.tasks import STOP_STRINGS, Prompt, build_prompts, load_problems

PACKAGES = ("kvhelpers", "torch", "transformers", "kvpress", "datasets")


def load_for(config: CellConfig) -> LanguageModel:
    """The cell's model, with the attention its press needs in the prefill."""
    return load_model(config.model, config.device, config.dtype, config.prefill_attention)


def cell_prompts(config: CellConfig, lm: LanguageModel) -> list[Prompt]:
    """The cell's prompts."""
    problems, examples = load_problems(config.task, config.n_prompts, config.n_fewshot, config.seed, config.data_file)
    return build_prompts(problems, examples, lm.tokenizer, config.multiturn)


def run_cell(config: CellConfig, lm: LanguageModel | None = None) -> CellResult:
    """Run a cell, or return it if it is finished. A killed cell goes on with the prompts it had not finished.

    Parameters
    ----------
    config : from `config.make_config`.
    lm : the model, if it is already loaded for this configuration.

    Raises
    ------
    InputError : bad input, or the place is taken by another configuration; nothing is written then.
    """
    if (finished := find_finished(config)) is not None:
        return finished
    lm = lm or load_for(config)
    checkpoint, started = Checkpoint(config), time.monotonic()
    checkpoint.forget_failed()
    with tqdm(total=config.n_prompts, initial=len(checkpoint.finished()), desc=config.label(), unit="prompt") as bar:
        for _ in run_prompts(config, lm):
            bar.update()
    return finish_cell(config, lm, time.monotonic() - started)


def run_prompts(config: CellConfig, lm: LanguageModel, indices: Sequence[int] | None = None) -> Iterator[int]:
    """Run those of a cell's prompts (or of these, by index) that are not finished; yield each one's index when it is saved.

    Raises
    ------
    InputError : a budget above the shortest prompt, before anything runs.
    """
    prompts = cell_prompts(config, lm)
    config.press_spec.for_prompt(min(len(prompt.token_ids) for prompt in prompts))
    checkpoint = Checkpoint(config)
    done = checkpoint.finished()
    missing = [index for index in (range(len(prompts)) if indices is None else indices) if index not in done]
    for run in generate_prompts(config, lm, [prompts[index] for index in missing], rows_together(config, lm, prompts)):
        index = missing[run.index]
        ends = char_ends(run.token_ids, lm)
        record = _record(index, prompts[index], run, lm, config, ends)
        checkpoint.save(record, {"token_id": run.token_ids, "char_end": ends, **run.signals})
        yield index


def finish_cell(config: CellConfig, lm: LanguageModel, seconds: float) -> CellResult:
    """Make a cell of its prompts' checkpoints. Raises InputError if one is missing."""
    checkpoint = Checkpoint(config)
    done = checkpoint.finished()
    if len(done) != config.n_prompts:
        raise InputError(f"cell {config.label()!r} has {len(done)} of {config.n_prompts} prompts; run it again")
    records, tables = map(list, zip(*checkpoint.load(), strict=True))
    batch_size = rows_together(config, lm, cell_prompts(config, lm))
    result = write_cell(config, _cell_data(config, lm, records, tables, seconds, batch_size), tables)
    checkpoint.remove()
    return result


def rows_together(config: CellConfig, lm: LanguageModel, prompts: list[Prompt]) -> int:
    """The cell's batch size, or what fits into memory."""
    if config.batch_size != "auto":
        return config.batch_size
    longest = max(len(prompt.token_ids) for prompt in prompts)
    return auto_batch_size(lm, 2 * longest if config.canary_tokens else longest, config.max_new_tokens)  # the full cache stays


def generate_prompts(config: CellConfig, lm: LanguageModel, prompts: list[Prompt], batch_size: int):
    """Generate the answers of some prompts as the cell says; yields `generation.Generation`."""
    return generate(
        lm,
        [prompt.token_ids for prompt in prompts],
        config.press_spec.for_prompt,
        max_new_tokens=config.max_new_tokens,
        batch_size=batch_size,
        seeds=[press_seed(config.seed, prompt.id) for prompt in prompts],
        stop_strings=STOP_STRINGS,
        repetition_penalty=config.repetition_penalty,
        timeout_s=config.timeout_s,
        canary_tokens=config.canary_tokens,
    )


def uncompressed_answer(config: CellConfig, prompt_index: int) -> str:
    """The cell's answer to a prompt, had its cache not been compressed: a finished ``none`` cell's, or a new run's."""
    bare = config.uncompressed()
    if (finished := find_finished(bare)) is not None:
        return finished.records[prompt_index]["text"]
    lm = load_for(bare)
    (run,) = generate_prompts(bare, lm, [cell_prompts(bare, lm)[prompt_index]], batch_size=1)
    return answer_text(run.token_ids, lm)


def press_seed(seed: int, prompt_id: str) -> int:
    """Seed of the random numbers a press may draw for a prompt: the same in every batch, process and order."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{prompt_id}".encode()).digest()[:4])


def answer_text(token_ids: list[int], lm: LanguageModel) -> str:
    """A run's text without the end token."""
    ids = token_ids[:-1] if token_ids and token_ids[-1] in lm.stop_ids else token_ids
    return lm.tokenizer.decode(ids)


def char_ends(token_ids: list[int], lm: LanguageModel) -> list[int]:
    """For each token, how many characters of the text are there when it is; an incomplete character does not count yet."""
    texts = (lm.tokenizer.decode(token_ids[: count + 1]) for count in range(len(token_ids)))
    longest = len(answer_text(token_ids, lm))
    ends = itertools.accumulate((len(text.rstrip("\ufffd")) for text in texts), max)
    return [min(end, longest) for end in ends]


def _record(
    index: int, prompt: Prompt, run: Generation, lm: LanguageModel, config: CellConfig, ends: list[int]
) -> dict[str, Any]:
    text = answer_text(run.token_ids, lm)
    return {
        "prompt_index": index,
        "prompt_id": prompt.id,
        "question": prompt.question,
        "reference": prompt.reference,
        "text": text,
        "prompt_tokens": len(prompt.token_ids),
        "n_tokens": len(run.token_ids),
        "stop_reason": run.stop_reason,
        "error": run.error,
        **score(text, run.token_ids, ends, run.stop_reason, run.error, prompt.reference),
        "cache": asdict(run.cache) if run.cache else None,
        "compressions": [asdict(cut) for cut in run.compressions],
        "flags": _flags(run, len(prompt.token_ids), config),
        "seconds": round(run.seconds, 3),
    }


def _flags(run: Generation, n_tokens: int, config: CellConfig) -> list[str]:
    prefilling, decoding = phases(config.press_spec.for_prompt(n_tokens))
    if run.error is not None:
        window = observation_window(prefilling)
        return ["run_failed", *(["prompt_within_window"] if window is not None and n_tokens <= window else [])]
    never_cut = ["never_compressed_decoding"] if decoding and not run.compressions else []
    return run.cache.flags(prefilling is not None and config.ratio != 0) + never_cut


def _cell_data(
    config: CellConfig, lm: LanguageModel, records: list[dict], tables: list[pa.Table], seconds: float, batch_size: int
) -> dict[str, Any]:
    signals: pd.DataFrame = pa.concat_tables(tables).select(["prompt_index", "entropy", "top1_prob"]).to_pandas()
    _, examples = load_problems(config.task, config.n_prompts, config.n_fewshot, config.seed, config.data_file)
    return {
        "schema_version": SCHEMA_VERSION,
        "label": config.label(),
        "config": config.model_dump(),
        "config_hash": config.hash(),
        "identity": config.identity(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "machine": {
            "system": platform.system(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name() if lm.device == "cuda" else lm.device,
            "dtype": lm.dtype,
            "batch_size": batch_size,
        },
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(seconds, 1),
        "examples": [{"question": example.question, "solution": example.solution} for example in examples],
        "summary": summarize(records, signals),
        "records": records,
    }
