"""What a condition asks for as a press, made into a kvpress object for one prompt.

``compression_ratio`` is the fraction of key-value pairs *removed* from the prompt's cache, as in kvpress;
``budget`` is the number of tokens *kept* instead. kvpress, and with it torch, is imported when a press is
built.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kvhelpers import own
from kvhelpers.errors import InputError, shown, unknown_name
from kvhelpers.presses.registry import BY_NAME, DECODING, EAGER, NONE, PREFILL_DECODING, PressEntry

if TYPE_CHECKING:
    import kvpress


@dataclass(frozen=True)
class PressSpec:
    """A press by name, with its ratio or its budget. `check` and `check_build` say whether it can be built.

    ``name`` is ``none``, a short name of `registry.PRESSES` or a kvpress class name. Exactly one of ``ratio``
    (in [0, 1)) and ``budget`` (tokens) is set, except for ``none``. ``kwargs`` are the press's own fields;
    for a wrapping press, give the inner one as ``{"press": {"name": "snapkv", "window_size": 16}}``. A press
    of one's own is named as in `own`.
    ``DecodingPress`` leaves the prompt's cache alone and has ratio 0; of ``PrefillDecodingPress`` the ratio
    or budget is that of its prefilling press.
    """

    name: str
    ratio: float | None = None
    budget: int | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Check names, ratio, budget and the fields whose values the registry knows, without kvpress.

        Raises
        ------
        InputError : an unknown or unsupported press, here or among the fields; a ratio, a budget or a field
            out of range or that the press cannot have.
        """
        if self.name == NONE:
            self._check_none()
            return
        if self.ratio is not None and self.budget is not None:
            raise InputError(
                f"ratio {self.ratio} and budget {self.budget} exclude each other; give one of them"
            )
        if self.ratio is not None and not 0 <= self.ratio < 1:
            raise InputError(
                f"ratio {self.ratio} is outside [0, 1); it is the fraction of the prompt's cache removed"
            )
        if self.budget is not None and self.budget < 1:
            raise InputError(f"budget {self.budget} is below 1; it is the number of tokens kept")
        _check_names(self.name, self.kwargs, "press")
        if self._spares_the_prompt and (self.ratio or self.budget is not None):
            amount = f"budget {self.budget}" if self.budget is not None else f"ratio {self.ratio}"
            raise InputError(
                f"{amount} makes no sense with press {self.name!r}, which has no prefilling press; "
                "use ratio 0"
            )

    def _check_none(self) -> None:
        for amount in ("ratio", "budget"):
            value = getattr(self, amount)
            if value or (value is not None and amount == "budget"):
                raise InputError(
                    f"{amount} {value} makes no sense with press 'none'; leave it out or choose a press"
                )
        if self.kwargs:
            raise InputError(
                f"press_kwargs {shown(self.kwargs)} make no sense with press 'none'; leave them out"
            )

    @property
    def _spares_the_prompt(self) -> bool:
        """Whether the press acts while decoding only."""
        return self.name == DECODING or (
            self.name == PREFILL_DECODING and self.kwargs.get("prefilling_press") is None
        )

    def check_build(self) -> None:
        """Build the press once, which imports kvpress.

        Raises
        ------
        InputError : what `check` finds; a field that the press does not have, of a wrong type or value; a
            press that takes no ratio; a base press that cannot act while decoding.
        """
        self.check()
        if self.name != NONE:
            self._build(0.5 if self.ratio is None else self.ratio)

    def attention(self) -> str:
        """Attention that the prefill needs: ``eager`` where the press reads attention weights."""
        fields = {"name": self.name, **self.kwargs}
        while isinstance(fields, Mapping) and fields.get("name") != DECODING:
            entry = _entry(fields.get("name"))
            if entry is not None and entry.class_name in EAGER:
                return "eager"
            fields = fields.get("prefilling_press" if fields.get("name") == PREFILL_DECODING else "press")
        return "sdpa"

    def for_prompt(self, n_tokens: int) -> kvpress.BasePress | None:
        """The press for a prompt of ``n_tokens``; None for ``none``.

        Raises
        ------
        InputError : the budget is above the prompt's tokens; what `check_build` finds.
        """
        if self.name == NONE:
            return None
        if self.budget is None:
            return self._build(self.ratio)
        if self.budget > n_tokens:
            raise InputError(
                f"budget {self.budget} is above the prompt's {n_tokens} tokens that can be compressed; "
                f"choose at most {n_tokens}"
            )
        # kvpress keeps int(n * (1 - ratio)); half a token of slack keeps rounding away from the edge
        ratio = 0.0 if self.budget == n_tokens else 1 - (self.budget + 0.5) / n_tokens
        return self._build(ratio)

    def _build(self, ratio: float) -> kvpress.BasePress:
        from kvhelpers.presses.kinds import phases

        _check_names(self.name, self.kwargs, "press")
        press = _make(self.name, self.kwargs, "press")
        prefilling, decoding = phases(press)
        _check_decoding(decoding)
        if prefilling is None:
            return press
        if "compression_ratio" not in dir(prefilling):  # any object would take one, and ignore it
            if ratio:
                raise InputError(f"press {self.name!r} has no compression_ratio; use ratio 0")
            return press
        try:
            prefilling.compression_ratio = ratio
        except AttributeError as error:
            raise InputError(f"press {self.name!r} takes no compression ratio of its own: {error}") from error
        return press


def described(press: kvpress.BasePress | type) -> dict[str, Any]:
    """A press that is given itself, an instance or a class, as the parameters ``press``, ``ratio`` and
    ``press_kwargs`` of a condition; a class has no ratio.

    Raises
    ------
    InputError : it is no press, or `own.name_of` refuses its class.
    """
    from kvpress import BasePress

    from kvhelpers.presses.kinds import phases

    press_class = press if isinstance(press, type) else type(press)
    if not issubclass(press_class, BasePress):
        raise InputError(
            f"press {shown(press)} is not allowed; it is a name, or a class or an instance of a "
            "press of kvpress"
        )
    known = BY_NAME.get(press_class.__name__) if press_class.__module__.startswith("kvpress.") else None
    own_entry = next((one for one in BY_NAME.values() if _is_of(one, press_class)), None)
    entry = known or own_entry
    name = (entry.short or entry.class_name) if entry else own.name_of("press", press_class)
    if press is press_class:
        return {"press": name}
    kwargs = {}
    for one in dataclasses.fields(press):
        value = getattr(press, one.name)
        if not one.init or one.name == "compression_ratio" or value == one.default:
            continue
        if isinstance(value, BasePress):
            inner = described(value)
            value = {"name": inner["press"]} | inner["press_kwargs"]
        kwargs[one.name] = value
    prefilling, _ = phases(press)
    try:
        ratio = getattr(prefilling, "compression_ratio", 0.0)
    except ValueError:  # one that is known after its pass only
        ratio = 0.0
    made = _make(name, kwargs, "press")
    if not _is_like(made, press):
        raise InputError(
            f"press {press_class.__name__!r}, given as an instance, has more to it than its fields say; make "
            "its parameters fields of a dataclass"
        )
    return {"press": name, "ratio": ratio, "press_kwargs": kwargs}


def _is_like(made: kvpress.BasePress, given: kvpress.BasePress) -> bool:
    """Whether a press that was made by name has all attributes of one that was given, the ratio aside."""
    from kvpress import BasePress

    if type(made).__name__ != type(given).__name__ or vars(made).keys() != vars(given).keys():
        return False
    for name, value in vars(made).items():
        other = vars(given)[name]
        if isinstance(value, BasePress) and isinstance(other, BasePress):
            if not _is_like(value, other):
                return False
        elif name != "compression_ratio" and repr(value) != repr(other):
            return False
    return True


def _is_of(entry: PressEntry, press_class: type) -> bool:
    return entry.is_own and (entry.module, entry.class_name) == (press_class.__module__, press_class.__name__)


def with_hashes(name: str, kwargs: Mapping[str, Any], parameter: str = "press") -> tuple[str, dict[str, Any]]:
    """The press's name and fields, with the hashes of code of one's own (`own.with_hash`)."""
    inner = {}
    for key, (given, fields) in _inner_presses(kwargs).items():
        known, fields = with_hashes(given, fields, f"press_kwargs {key}")
        inner[key] = {"name": known} | fields
    return (own.with_hash(parameter, name) if own.is_own(name) else name), {**kwargs, **inner}


def _entry(name: object) -> PressEntry | None:
    return BY_NAME.get(name) if isinstance(name, str) else None


def _inner_presses(kwargs: Mapping[str, Any]) -> dict[str, tuple[Any, dict[str, Any]]]:
    """The presses among a press's fields: by key, name and own fields."""
    return {
        key: (value["name"], {inner: given for inner, given in value.items() if inner != "name"})
        for key, value in kwargs.items()
        if isinstance(value, dict) and "name" in value
    }


def _check_names(name: object, kwargs: Mapping[str, Any], parameter: str) -> None:
    """Check the names of a press and of those among its fields, and their fields' values."""
    if own.is_own(name):
        own.with_hash(parameter, name)
    entry = PressEntry(name) if own.is_own(name) else _entry(name)
    if entry is None:
        usable = [other for other, entry in BY_NAME.items() if entry.unsupported is None]
        raise unknown_name(parameter, name, [NONE, *usable] if parameter == "press" else usable)
    if entry.unsupported is not None:
        raise InputError(f"{parameter} {name!r} is not supported: {entry.unsupported}")
    for key, allowed in entry.fields.items():
        if key in kwargs and not allowed.allows(kwargs[key]):
            raise InputError(
                f"press_kwargs of press {name!r}: {key} {shown(kwargs[key])} is not allowed; it is {allowed}"
            )
    for key, (inner, inner_kwargs) in _inner_presses(kwargs).items():
        _check_names(inner, inner_kwargs, f"press_kwargs {key}")
        if entry.without_weights and PressSpec(inner, kwargs=inner_kwargs).attention() == "eager":
            raise InputError(
                f"press_kwargs {key} {inner!r} does not fit press {name!r}, which cannot give it the "
                "attention weights that it reads"
            )


def _check_decoding(press: kvpress.DecodingPress | None) -> None:
    from kvpress import DecodingPress, ScorerPress

    if press is None:
        return
    if not isinstance(press, DecodingPress):
        raise InputError(
            f"press_kwargs decoding_press {shown(press)} is not allowed; it is a press with the name "
            f"{DECODING!r}"
        )
    base = press.base_press
    if not isinstance(base, ScorerPress) or type(base).__name__ in EAGER:
        raise InputError(
            f"press_kwargs base_press {type(base).__name__!r} is not supported while decoding: "
            "it must score tokens without attention weights, and remove them"
        )


def _make(name: str, kwargs: Mapping[str, Any], parameter: str) -> kvpress.BasePress:
    """Build a press, the presses among its fields first; its name is known."""
    press_class = own.load(parameter, name) if own.is_own(name) else _class_of(BY_NAME[name])
    if own.is_own(name):
        _check_class(parameter, name, press_class)
    _check_fields(name, press_class, kwargs)
    inner = {
        key: _make(inner_name, inner_kwargs, f"press_kwargs {key}")
        for key, (inner_name, inner_kwargs) in _inner_presses(kwargs).items()
    }
    try:
        return press_class(**{**kwargs, **inner})
    except (TypeError, ValueError, AssertionError, AttributeError) as error:
        raise InputError(
            f"{parameter} {name!r} cannot be built with press_kwargs {shown(kwargs)}: "
            f"{str(error) or type(error).__name__}"
        ) from error


def _class_of(entry: PressEntry) -> type:
    return getattr(importlib.import_module(entry.module), entry.class_name)


def _check_class(parameter: str, name: str, press_class: object) -> None:
    from kvpress import BasePress

    if not (isinstance(press_class, type) and issubclass(press_class, BasePress)):
        raise InputError(
            f"{parameter} {name!r} is no press: it is a class that inherits from kvpress.ScorerPress, with a "
            "method score, or from another press of kvpress"
        )


def _check_fields(name: str, press_class: type, kwargs: Mapping[str, Any]) -> None:
    """Check that a press has these fields and that a number or a truth value is given where it has one."""
    defaults = {
        key: parameter.default
        for key, parameter in inspect.signature(press_class).parameters.items()
        if key != "compression_ratio" and not key.startswith("_")
    }
    for key, value in kwargs.items():
        if key not in defaults:
            raise unknown_name(f"press_kwargs of press {name!r}: key", key, sorted(defaults))
        kind = type(defaults[key])
        fits = type(value) is kind or (kind is float and type(value) is int)
        if kind in (int, float, bool) and not fits:
            raise InputError(f"press_kwargs of press {name!r}: {key} {shown(value)} is no {kind.__name__}")
