"""Reasons not to take a number at face value. They stand next to the number they concern."""

from __future__ import annotations

from collections.abc import Sequence

from kvhelpers.presses.cache_formats import GROUPED, CacheFormats
from kvhelpers.presses.registry import NONE
from kvhelpers.records import CacheReport
from kvhelpers.stats import SIGNIFICANCE

# with `compress: context` they are of the context, which is what the press gets of the prompt
FLAGS = {
    "run_failed": "the run ended in an error: it counts as a failure, but not one of the model",
    "timed_out": "the run was stopped by timeout_s: it counts as a failure, but not one of the model",
    "kept_within_window": "kept tokens ≤ the press's observation window: the press chose nothing, it kept "
    "part of its window",
    "prompt_within_window": "prompt ≤ the press's observation window: the press cannot score anything",
    "press_fell_back": "the prompt is too short for the press's own work (its lag, chunk, block or "
    "pyramid): it did another press's, or kept only what it always keeps",
    "sink_evicted": "the attention sink (first token) was evicted in most heads",
    "not_compressed": "compression did not happen: as many tokens kept as the prompt has",
    "cache_not_shrunk": "the press masks keys instead of removing them: the cache takes as much memory as "
    "before",
    "never_compressed_decoding": "the run ended before the press compressed its cache while decoding",
    "format_changes_nothing": "the cache's format holds whatever the model's own type does",
    "residual_not_filled": "the run ended before a token left the residual window: nothing was rounded in "
    "groups",
    "weak_baseline": "the uncompressed model solves too few prompts to show a drop",
}
OWN_TYPE = {"f16": "float16", "bf16": "bfloat16"}  # a format that is a model's own number format
INVALIDATING = (
    "run_failed",
    "timed_out",
    "kept_within_window",
    "prompt_within_window",
    "press_fell_back",
    "not_compressed",
    "format_changes_nothing",
    "residual_not_filled",
    "weak_baseline",
)


def baseline_is_weak(correct: int) -> bool:
    """Whether even the loss of every solved prompt could not be significant.

    If compression broke all ``correct`` prompts and mended none, McNemar's exact test on these discordant
    pairs would give p = 2 * 0.5 ** correct; above .05 no outcome of the compressed run can show a drop. That
    is the case below 6.
    """
    return min(1.0, 2 * 0.5**correct) > SIGNIFICANCE


def worst_flags(per_run: Sequence[Sequence[str]]) -> dict[str, int]:
    """In how many runs each flag is raised, in the order of `FLAGS`."""
    return {name: count for name in FLAGS if (count := sum(name in flags for flags in per_run))}


def cache_flags(cache: CacheReport, compresses: bool) -> list[str]:
    """Names of `FLAGS` that a prompt's cache raises; ``compresses``: the press was asked to remove tokens."""
    raised = {
        "kept_within_window": cache.window is not None and cache.kept_tokens <= cache.window,
        "prompt_within_window": cache.window is not None and cache.prompt_tokens <= cache.window,
        "sink_evicted": cache.sink_kept < 0.5,
        "not_compressed": cache.kept_tokens >= cache.prompt_tokens,
        "cache_not_shrunk": cache.kept_tokens < cache.prompt_tokens and cache.cache_bytes >= cache.full_bytes,
    }
    return [name for name, on in raised.items() if on] if compresses else []


def format_flags(formats: CacheFormats, dtype: str, held: float) -> list[str]:
    """Names of `FLAGS` that the formats of a cache raise, on a model of this number format, in a run that
    held so many tokens at its end.
    """
    names = {formats.k, formats.v} - {NONE}
    waits = held - formats.protect_tokens - formats.residual
    raised = {
        "format_changes_nothing": bool(names) and all(OWN_TYPE.get(name) == dtype for name in names),
        # keys are rounded once the window is full, values once it is more than that
        "residual_not_filled": (formats.k in GROUPED and waits < 0) or (formats.v in GROUPED and waits <= 0),
    }
    return [name for name, on in raised.items() if on]
