"""Ways to generate the same answers, each timed and weighed: what `throughput.py` compares."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from unittest.mock import patch

import psutil
import torch
from kvpress import KVPressTextGenerationPipeline

from kvhelpers.generation import choose
from kvhelpers.generation.attention import attention_implementation
from kvhelpers.generation.batched_cache import BatchedCache
from kvhelpers.generation.generate import generate
from kvhelpers.generation.prefill import Prefiller
from kvhelpers.generation.requests import Request, Settings
from kvhelpers.models.load import LanguageModel
from kvhelpers.presses.spec import PressSpec

CANARY_TOKENS = 8
LOOKED_UP = 10  # tokens that transformers drafts in a pass


@dataclass
class Measured:
    """One method's run: seconds by part, peak memory above the loaded model, and what it generated.

    ``decode_s`` is all but the prefill, signals included. ``moved_bytes`` and ``flops`` are what the decode
    steps must at least read (weights once a step, each row's cache) and compute (products with weights),
    noted for our own method only, as are its ``passes`` over rows, its ``drafted`` and ``accepted`` tokens.
    """

    prompts: int
    new_tokens: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    signals_s: float = 0.0
    peak_bytes: int = 0
    moved_bytes: int = 0
    flops: int = 0
    passes: int = 0
    drafted: int = 0
    accepted: int = 0
    tokens: dict[int, list[int]] = field(default_factory=dict)
    margins: dict[int, list[float]] = field(default_factory=dict)

    @property
    def decode_rate(self) -> float:
        """New tokens per second of decoding; each prompt's first token comes from the prefill."""
        return (self.new_tokens - self.prompts) / self.decode_s

    @property
    def rate(self) -> float:
        """New tokens per second, prefill included."""
        return self.new_tokens / (self.prefill_s + self.decode_s)


class Clock:
    """Seconds, once the device has done what it was told."""

    def __init__(self, device: str):
        self.device = device

    def __call__(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def wrap(self, into: dict[str, float], name: str, function: Callable) -> Callable:
        """``function``, adding its seconds to ``into[name]``."""

        def timed(*args, **kwargs):
            started = self()
            result = function(*args, **kwargs)
            into[name] = into.get(name, 0.0) + self() - started
            return result

        return timed


@contextlib.contextmanager
def weighed(device: str, measured: Measured):
    """Note the peak of the memory taken inside the context: of the device, or of this process, looked at
    every 20 ms.
    """
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield
        measured.peak_bytes = torch.cuda.max_memory_allocated() - before
        return
    process, done = psutil.Process(), threading.Event()
    before = process.memory_info().rss

    def watch():
        while not done.wait(0.02):
            measured.peak_bytes = max(measured.peak_bytes, process.memory_info().rss - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


@contextlib.contextmanager
def prefill_timed(lm: LanguageModel, clock: Clock, seconds: dict[str, float], longer_than: int = 1):
    """Add up the forward passes over more tokens than these, and count the others."""
    seconds |= {"prefill": 0.0, "steps": 0}
    forward = lm.model.model.forward

    def timed(input_ids, **kwargs):
        if input_ids.shape[1] > longer_than:
            return clock.wrap(seconds, "prefill", forward)(input_ids, **kwargs)
        seconds["steps"] += 1
        return forward(input_ids, **kwargs)

    with patch.object(lm.model.model, "forward", timed):
        yield


def published_signals(logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Entropy, alternatives' entropy and the 20 most probable tokens from kept logits ``[T, V]``, as scripts
    do it.
    """
    logp = torch.log_softmax(logits.float(), dim=-1)
    p = logp.exp()
    top = torch.topk(logp, 20, dim=-1)
    others = p.scatter(1, top.indices[:, :1], 0.0)
    others = others / others.sum(-1, keepdim=True)
    return (
        -(p * logp).sum(-1),
        -torch.special.xlogy(others, others).sum(-1),
        top.values.cpu(),
        top.indices.cpu(),
    )


@torch.inference_mode()
def one_at_a_time(
    lm: LanguageModel, prompts: Sequence[list[int]], spec: PressSpec, new_tokens: int, rows: int
) -> Measured:
    """(a) transformers' `generate` for each prompt, all logits kept, signals from them afterwards."""
    measured, clock, seconds = Measured(len(prompts)), Clock(lm.device), {}
    with (
        weighed(lm.device, measured),
        prefill_timed(lm, clock, seconds),
        attention_implementation(lm.model, lm.attn),
    ):
        started = clock()
        for index, prompt in enumerate(prompts):
            press, ids = spec.for_prompt(len(prompt)), torch.tensor([prompt], device=lm.device)
            torch.manual_seed(index)
            with press(lm.model) if press else contextlib.nullcontext():
                out = lm.model.generate(
                    ids,
                    output_logits=True,
                    return_dict_in_generate=True,
                    **_greedy(lm, new_tokens, torch.ones_like(ids)),
                )
            clock.wrap(seconds, "signals", lambda out=out: published_signals(torch.cat(out.logits)))()
            measured.tokens[index] = out.sequences[0, len(prompt) :].tolist()
        total = clock() - started
    return _filled(measured, total, seconds)


@torch.inference_mode()
def kvpress_pipeline(
    lm: LanguageModel, prompts: Sequence[list[int]], spec: PressSpec, new_tokens: int, rows: int
) -> Measured:
    """(b) kvpress's own pipeline: the prompt but its last token is the context, the last token the question;
    no signals.
    """
    measured, clock, seconds = Measured(len(prompts)), Clock(lm.device), {}
    pipe = KVPressTextGenerationPipeline(model=lm.model, tokenizer=lm.tokenizer)
    with (
        weighed(lm.device, measured),
        prefill_timed(lm, clock, seconds),
        attention_implementation(lm.model, lm.attn),
    ):
        started = clock()
        for index, prompt in enumerate(prompts):
            torch.manual_seed(index)
            context, question = torch.tensor([prompt[:-1]]), torch.tensor([prompt[-1:]])
            pipe.forward(
                {"context_ids": context, "questions_ids": [question]},
                press=spec.for_prompt(len(prompt) - 1),
                max_new_tokens=new_tokens,
            )
        total = clock() - started
    measured.new_tokens = int(seconds["steps"])
    return _filled(measured, total, seconds)


@torch.inference_mode()
def batched_generate(
    lm: LanguageModel, prompts: Sequence[list[int]], spec: PressSpec, new_tokens: int, rows: int
) -> Measured:
    """(c) transformers' `generate` in left-padded batches: no press, no signals."""
    measured, clock, seconds = Measured(len(prompts)), Clock(lm.device), {}
    with (
        weighed(lm.device, measured),
        prefill_timed(lm, clock, seconds),
        attention_implementation(lm.model, "sdpa"),
    ):
        started = clock()
        for first in range(0, len(prompts), rows):
            batch = prompts[first : first + rows]
            width = max(map(len, batch))
            ids = torch.tensor([[0] * (width - len(p)) + p for p in batch], device=lm.device)
            mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch], device=lm.device)
            out = lm.model.generate(ids, **_greedy(lm, new_tokens, mask))[:, width:]
            for row, tokens in enumerate(out.tolist()):
                end = next((i + 1 for i, token in enumerate(tokens) if token in lm.stop_ids), len(tokens))
                measured.tokens[first + row] = tokens[:end]
        total = clock() - started
    return _filled(measured, total, seconds)


@torch.inference_mode()
def prompt_lookup(
    lm: LanguageModel, prompts: Sequence[list[int]], spec: PressSpec, new_tokens: int, rows: int
) -> Measured:
    """(p) transformers' `generate` one at a time with its own prompt lookup: no press, no signals."""
    measured, clock, seconds = Measured(len(prompts)), Clock(lm.device), {}
    with (
        weighed(lm.device, measured),
        prefill_timed(lm, clock, seconds, longer_than=LOOKED_UP + 1),
        attention_implementation(lm.model, "sdpa"),
    ):
        started = clock()
        for index, prompt in enumerate(prompts):
            ids = torch.tensor([prompt], device=lm.device)
            settings = _greedy(lm, new_tokens, torch.ones_like(ids))
            out = lm.model.generate(ids, prompt_lookup_num_tokens=LOOKED_UP, **settings)
            measured.tokens[index] = out[0, len(prompt) :].tolist()
        total = clock() - started
    return _filled(measured, total, seconds)


def without_drafts(
    lm: LanguageModel, prompts: Sequence[list[int]], spec: PressSpec, new_tokens: int, rows: int
) -> Measured:
    """(n) As (d), without drafts."""
    return measured(lm, _requests(prompts, spec), Settings(new_tokens, rows, drafts=False))


def plain_weights(
    lm: LanguageModel, prompts: Sequence[list[int]], spec: PressSpec, new_tokens: int, rows: int
) -> Measured:
    """(w) As (n), with weights as PyTorch keeps them."""
    return without_drafts(dataclasses.replace(lm, packed=None), prompts, spec, new_tokens, rows)


def static_batches(
    lm: LanguageModel, prompts: Sequence[list[int]], spec: PressSpec, new_tokens: int, rows: int
) -> Measured:
    """(e) as (d), but no prompt takes the place of one that has ended: the next batch waits for the last run
    of this one.
    """
    settings = Settings(new_tokens, rows)
    batches = [range(len(prompts))[first : first + rows] for first in range(0, len(prompts), rows)]
    return measured(lm, _requests(prompts, spec), settings, batches)


def with_canary(
    lm: LanguageModel, prompts: Sequence[list[int]], spec: PressSpec, new_tokens: int, rows: int
) -> Measured:
    """(f) As (d), with the divergence from the full cache over the first tokens."""
    settings = Settings(new_tokens, rows, canary_tokens=CANARY_TOKENS)
    return measured(lm, _requests(prompts, spec), settings)


def ours(
    lm: LanguageModel, prompts: Sequence[list[int]], spec: PressSpec, new_tokens: int, rows: int
) -> Measured:
    """(d) `kvhelpers.generation.generate`, with all its signals."""
    return measured(lm, _requests(prompts, spec), Settings(new_tokens, rows))


def _requests(prompts: Sequence[list[int]], spec: PressSpec) -> list[Request]:
    return [Request(prompt, spec.for_prompt(len(prompt)), seed) for seed, prompt in enumerate(prompts)]


def measured(
    lm: LanguageModel,
    requests: Sequence[Request],
    settings: Settings,
    calls: Sequence[Sequence[int]] | None = None,
) -> Measured:
    """Measure this project's generation; ``calls`` says which requests are given to it at a time: all, unless
    told.
    """
    measured, clock, seconds = Measured(len(requests)), Clock(lm.device), {}
    weights = list(lm.model.parameters())
    weight_bytes, weight_count = sum(w.nbytes for w in weights), sum(w.numel() for w in weights)
    step = BatchedCache.step

    def counted(cache, model, fed, positions, *last):
        read_once = cache._read_together() * len(cache.layers)
        tokens = sum(map(sum, cache.lengths)) - (len(cache.lengths) - 1) * read_once
        _, heads, _, dim = cache.layers[0].keys.shape
        measured.moved_bytes += weight_bytes + 2 * tokens * heads * dim * weights[0].element_size()
        measured.flops += 2 * weight_count * sum(map(len, fed))
        return step(cache, model, fed, positions, *last)

    with (
        weighed(lm.device, measured),
        patch.object(Prefiller, "__call__", clock.wrap(seconds, "prefill", Prefiller.__call__)),
        patch.object(BatchedCache, "join", clock.wrap(seconds, "prefill", BatchedCache.join)),
        patch.object(BatchedCache, "step", counted),
        patch.object(choose, "token_signals", clock.wrap(seconds, "signals", choose.token_signals)),
    ):
        started = clock()
        for indices in calls or [range(len(requests))]:
            for run in generate(lm, [requests[index] for index in indices], settings):
                measured.tokens[indices[run.index]] = run.token_ids
                measured.margins[indices[run.index]] = run.signals["margin"].tolist()
                if run.drafting is not None:  # it is None where memory ran out
                    measured.passes += run.drafting.passes
                    measured.drafted += run.drafting.drafted
                    measured.accepted += run.drafting.accepted
        total = clock() - started
    return _filled(measured, total, seconds)


def _greedy(lm: LanguageModel, new_tokens: int, attention_mask: torch.Tensor) -> dict:
    return {
        "attention_mask": attention_mask,
        "do_sample": False,
        "repetition_penalty": 1.0,
        "max_new_tokens": new_tokens,
        "eos_token_id": sorted(lm.stop_ids) or None,
        "pad_token_id": min(lm.stop_ids, default=0),
    }


def _filled(measured: Measured, total: float, seconds: dict[str, float]) -> Measured:
    measured.new_tokens = measured.new_tokens or sum(map(len, measured.tokens.values()))
    measured.prefill_s, measured.signals_s = seconds["prefill"], seconds.get("signals", 0.0)
    measured.decode_s = total - measured.prefill_s
    return measured
