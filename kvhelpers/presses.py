"""Presses by name: what a cell asks for, made into a kvpress object for one prompt.

``compression_ratio`` is the fraction of key-value pairs *removed* from the prompt's cache, as in kvpress; ``budget`` is
the number of tokens *kept* instead.
"""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass, field
from typing import Any

import kvpress

from kvhelpers.errors import InputError, unknown_name
from kvhelpers.sinkpress import SinkPress

PRESSES = {
    "streaming_llm": "StreamingLLMPress",
    "snapkv": "SnapKVPress",
    "observed_attention": "ObservedAttentionPress",
    "expected_attention": "ExpectedAttentionPress",
    "knorm": "KnormPress",
    "tova": "TOVAPress",
    "random": "RandomPress",
}
NONE = "none"
EAGER = ("ObservedAttentionPress",)
AFTERWARDS = ("StreamingLLMPress", "SnapKVPress", "ExpectedAttentionPress", "KnormPress", "TOVAPress", "RandomPress")
DECODING = "DecodingPress"
UNSUPPORTED = {
    "CompressionRatioDecodingPress": "it removes a share of a growing cache; name a target_size with 'DecodingPress'",
    "DMSPress": "it evicts tokens at every step, by thresholds made for trained models",
    "CAMPress": "it merges tokens at every step",
    "ComposedPress": "it takes a list of presses",
    "KVComposePress": "it needs attention of its own when decoding",
    "KVgradPress": "it needs a file from a model hub",
    "LUKVPress": "it needs parameters that fit one model",
    "KVzipPress": "it replays the context in several passes of its own",
    "FastKVzipPress": "it needs gates from a model hub",
    "KVzapPress": "it needs a scorer from a model hub",
    "QFilterPress": "it needs filters from a model hub",
    "DuoAttentionPress": "it needs attention patterns from the network",
    "ExpectedAttentionStatsPress": "it needs statistics from a model hub",
    "FinchPress": "it needs a delimiter token between context and question",
    "RestoreKVPress": "it needs positions of its own when decoding",
}
ABSTRACT = ("BasePress", "ScorerPress")


def press_classes() -> dict[str, type]:
    """Every press class of the installed kvpress by class name, short names first, and this project's own."""
    found = {
        name: value
        for name, value in vars(kvpress).items()
        if inspect.isclass(value) and issubclass(value, kvpress.BasePress) and name not in ABSTRACT
    }
    return {short: found[name] for short, name in PRESSES.items()} | {"with_sink": SinkPress} | found


def acts_afterwards(press: kvpress.BasePress | None) -> bool:
    """Whether a press needs no more of the prompt's forward pass than hidden states, keys and values, once it is over."""
    if isinstance(press, SinkPress):
        return acts_afterwards(press.press)
    return press is None or type(press).__name__ in AFTERWARDS


def phases(press: kvpress.BasePress | None) -> tuple[kvpress.BasePress | None, kvpress.DecodingPress | None]:
    """What a press does to the prompt's cache, and what it does while decoding."""
    if isinstance(press, kvpress.DecodingPress):
        return None, press
    if isinstance(press, kvpress.PrefillDecodingPress):
        return press.prefilling_press, press.decoding_press
    return press, None


@dataclass(frozen=True)
class PressSpec:
    """A press by name, with its ratio or its budget. `check` says whether it can be built.

    ``name`` is ``none``, a short name of `PRESSES` or a kvpress class name. Exactly one of ``ratio`` (in [0, 1)) and
    ``budget`` (tokens) is set, except for ``none``. ``kwargs`` are the press's own fields; for a wrapping press, give
    the inner one as ``{"press": {"name": "snapkv", "window_size": 16}}``. ``DecodingPress`` leaves the prompt's cache alone and
    has ratio 0; of ``PrefillDecodingPress`` the ratio or budget is that of its prefilling press.
    """

    name: str
    ratio: float | None = None
    budget: int | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Raise InputError unless this press can be built for some prompt."""
        if self.name == NONE:
            if self.ratio:
                raise InputError(f"ratio {self.ratio} makes no sense with press 'none'; leave it out or choose a press")
            if self.budget is not None:
                raise InputError(f"budget {self.budget} makes no sense with press 'none'; leave it out or choose a press")
            if self.kwargs:
                raise InputError(f"press_kwargs {self.kwargs} make no sense with press 'none'; leave them out")
            return
        if self.ratio is not None and self.budget is not None:
            raise InputError(f"ratio {self.ratio} and budget {self.budget} exclude each other; give one of them")
        if self.ratio is not None and not 0 <= self.ratio < 1:
            raise InputError(f"ratio {self.ratio} is outside [0, 1); it is the fraction of the prompt's cache removed")
        if self.budget is not None and self.budget < 1:
            raise InputError(f"budget {self.budget} is below 1; it is the number of tokens kept")
        self._build(self.ratio if self.ratio is not None else 0.5)

    def for_prompt(self, n_tokens: int) -> kvpress.BasePress | None:
        """The press for a prompt of ``n_tokens``; None for ``none``. Raises InputError when the budget is above it."""
        if self.name == NONE:
            return None
        if self.budget is None:
            return self._build(self.ratio)
        if self.budget > n_tokens:
            raise InputError(f"budget {self.budget} is above the prompt's {n_tokens} tokens; choose at most {n_tokens}")
        # kvpress keeps int(n * (1 - ratio)); half a token of slack keeps rounding away from the edge
        ratio = 0.0 if self.budget == n_tokens else 1 - (self.budget + 0.5) / n_tokens
        return self._build(ratio)

    def attention(self) -> str:
        """Attention implementation that the prefill needs: ``eager`` where the press reads attention weights."""
        return "eager" if any(name in EAGER for name in self._class_names()) else "sdpa"

    def _class_names(self) -> list[str]:
        if self.name == NONE:
            return []
        press, names = phases(self._build(0.0 if self.name == DECODING else 0.5))[0], []
        while press is not None:
            names.append(type(press).__name__)
            press = getattr(press, "press", None)
        return names

    def _build(self, ratio: float) -> kvpress.BasePress:
        press = _make(self.name, self.kwargs, "press")
        prefilling, decoding = phases(press)
        _check_decoding(decoding)
        if prefilling is None:
            if ratio or self.budget is not None:
                amount = f"budget {self.budget}" if self.budget is not None else f"ratio {ratio}"
                raise InputError(
                    f"{amount} makes no sense with press {self.name!r}, which has no prefilling press; use ratio 0"
                )
            return press
        try:
            prefilling.compression_ratio = ratio
        except AttributeError as error:
            raise InputError(f"press {self.name!r} takes no compression ratio of its own: {error}") from error
        return press


def _check_decoding(press: kvpress.DecodingPress | None) -> None:
    base = getattr(press, "base_press", None)
    if base is not None and (not isinstance(base, kvpress.ScorerPress) or type(base).__name__ in EAGER):
        raise InputError(
            f"press_kwargs base_press {type(base).__name__!r} is not supported while decoding: it must score tokens without "
            "attention weights, and remove them"
        )


def _make(name: str, kwargs: dict[str, Any], parameter: str) -> kvpress.BasePress:
    classes = press_classes()
    if not isinstance(name, str) or name not in classes:
        raise unknown_name(parameter, name, (NONE, *classes) if parameter == "press" else classes)
    cls = classes[name]
    if cls.__name__ in UNSUPPORTED:
        raise InputError(f"{parameter} {name!r} is not supported: {UNSUPPORTED[cls.__name__]}")
    defaults = {f.name: f.default for f in dataclasses.fields(cls) if f.init and f.name != "compression_ratio"}
    for key, value in kwargs.items():
        if key not in defaults:
            raise unknown_name(f"press_kwargs of press {name!r}: key", key, sorted(defaults))
        kind = type(defaults[key])
        if kind in (int, float, bool) and (type(value) is not kind and not (kind is float and type(value) is int)):
            raise InputError(f"press_kwargs of press {name!r}: {key} {value!r} is no {kind.__name__}")
        if kind is int and value < 0:
            raise InputError(f"press_kwargs of press {name!r}: {key} {value!r} is below 0")
    made = {
        key: _make(value["name"], {k: v for k, v in value.items() if k != "name"}, f"press_kwargs {key}")
        if isinstance(value, dict) and "name" in value
        else value
        for key, value in kwargs.items()
    }
    try:
        return cls(**made)
    except (TypeError, ValueError, AssertionError, AttributeError) as error:
        raise InputError(f"{parameter} {name!r} cannot be built with press_kwargs {kwargs}: {error}") from error
