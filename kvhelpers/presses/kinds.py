"""What a built press does: to the prompt's cache, while decoding, and when."""

from __future__ import annotations

from types import SimpleNamespace

import kvpress
from kvpress.utils import compute_n_kept

from kvhelpers.presses.registry import POSTHOC
from kvhelpers.presses.restore_rows import RestoreRowsPress
from kvhelpers.presses.sink import SinkPress

Kind = tuple[tuple[type, str], ...]

# whether presses of one's own act after the forward pass, as `generation.own_press` found
OWN_POSTHOC: dict[Kind, bool] = {}


def phases(press: kvpress.BasePress | None) -> tuple[kvpress.BasePress | None, kvpress.DecodingPress | None]:
    """What a press does to the prompt's cache, and what it does while decoding."""
    if isinstance(press, kvpress.DecodingPress):
        return None, press
    if isinstance(press, kvpress.PrefillDecodingPress):
        return press.prefilling_press, press.decoding_press
    return press, None


def is_posthoc(press: kvpress.BasePress | None) -> bool:
    """Whether a press needs no more of the prompt's forward pass than hidden states, keys and values, once it
    is over.
    """
    if isinstance(press, (SinkPress, RestoreRowsPress)):
        return is_posthoc(press.press)
    if is_own(press):
        return OWN_POSTHOC.get(kind(press), False)
    return press is None or type(press).__name__ in POSTHOC


def is_own(press: kvpress.BasePress | None) -> bool:
    """Whether a press, or one that it wraps, is neither kvpress's nor this project's."""
    while press is not None:
        if not (_is_kvpress(press) or type(press).__module__.startswith("kvhelpers.")):
            return True
        press = getattr(press, "press", None)
    return False


def kind(press: kvpress.BasePress) -> Kind:
    """What tells a press from others but for its ratio: the classes of it and of those that it wraps, and
    their fields.
    """
    found = []
    while press is not None:
        fields = {name: value for name, value in vars(press).items() if name != "compression_ratio"}
        inner = fields.pop("press", None)
        found.append((type(press), repr(sorted(fields.items()))))
        press = inner
    return tuple(found)


def _is_kvpress(press: kvpress.BasePress) -> bool:
    return type(press).__module__.startswith("kvpress.")


def rerotates(press: kvpress.BasePress | None) -> bool:
    """Whether a press gives the keys that it keeps of a context new positions, from 0 on; kvpress's
    `KVPressTextGenerationPipeline` feeds the question right behind them.
    """
    return isinstance(press, kvpress.KeyRerotationPress)


def observation_window(press: kvpress.BasePress | None) -> int | None:
    """Last prompt tokens that a press always keeps because it observes from them (SnapKV), or None."""
    while press is not None:
        if hasattr(press, "window_size"):
            return int(press.window_size)
        press = getattr(press, "press", None)
    return None


def falls_back(press: kvpress.BasePress | None, n_tokens: int) -> bool:
    """Whether a press, on a prompt of ``n_tokens``, does another press's work instead of its own, or keeps
    nothing but what it always keeps: kvpress (0.5.5) does so without a word.

    A lag, a chunk or a block that reaches over all tokens leaves StreamingLLM's work or the inner press's;
    PyramidKV that cannot give its layers different budgets, or of which only the scores are used, is SnapKV.
    """
    ratio = getattr(press, "compression_ratio", 0)
    return ratio != 0 and _falls_back(press, n_tokens, compute_n_kept(n_tokens, ratio), inner=False)


def _falls_back(press: kvpress.BasePress, n_tokens: int, n_kept: int, inner: bool) -> bool:
    scored, of_them = n_tokens, n_kept  # that an inner press scores together and keeps
    if isinstance(press, kvpress.LagKVPress):
        begun = (n_tokens - press.n_sink) % press.lag_size  # of a partition
        if n_tokens < press.n_sink + 2 * press.lag_size or n_kept <= press.n_sink + press.lag_size + begun:
            return True
    elif isinstance(press, kvpress.PyramidKVPress):
        ends = (
            SimpleNamespace(config=SimpleNamespace(num_hidden_layers=2), layer_idx=index) for index in (0, 1)
        )
        if inner or len({press.get_layer_budget(layer, n_tokens) for layer in ends}) == 1:
            return True
    elif isinstance(press, kvpress.ChunkPress | kvpress.EntropyGatedChunkKVPress):
        if n_tokens <= press.chunk_length:
            return True
        if isinstance(press, kvpress.ChunkPress):
            scored, of_them = press.chunk_length, n_kept * press.chunk_length // n_tokens
    elif isinstance(press, kvpress.ChunkKVPress):
        if n_tokens < press.chunk_length:
            return True
    elif isinstance(press, kvpress.BlockPress):
        scored = n_kept + press.block_size
        if scored >= n_tokens:
            return True
    always = sum(
        getattr(press, name, 0) for name in ("n_sink", "num_sinks", "sink_size_start", "sink_size_end")
    )
    wrapped = getattr(press, "press", None)
    return n_kept <= always or (wrapped is not None and _falls_back(wrapped, scored, of_them, inner=True))
