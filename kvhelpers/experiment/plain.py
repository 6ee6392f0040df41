"""Plain values: what experiment files, ``--set`` and parameters may be made of, and the one reader of YAML.

Plain is what JSON can keep: null, truth values, finite numbers, text, lists, and mappings from text. All that
a run is told is written beside its results; what cannot be written is found here, before anything runs.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import deque

import yaml

from kvhelpers.errors import InputError, shown

DEEPEST = 16  # levels of lists and mappings in one another
MOST = 10_000  # values in one file or parameter
LARGEST = 2**63 - 1
NEVER = re.compile(r"(?!)")
NARROWER = {  # of what YAML 1.1 takes for truth values, numbers, dates and signs: what is one here
    f"tag:yaml.org,2002:{tag}": pattern
    for tag, pattern in {
        "bool": re.compile("true|True|TRUE|false|False|FALSE"),
        "int": re.compile("[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F]+)"),
        "float": re.compile("[^:]*"),
        "timestamp": NEVER,
        "value": NEVER,
        "yaml": NEVER,
    }.items()
}


def plain_hash(value: object) -> str:
    """Hex SHA-256 of a plain value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def check_plain(value: object, name: str, source: str = "") -> None:
    """Check that a value is plain; ``name`` is what a message calls it, ``source`` where it comes from.

    Raises
    ------
    InputError : a number that is not finite or beyond 64 bits, text that is no Unicode, a date, a set or
        another kind of object, too many values, or too deep a nesting.
    """
    pending = deque([(name, value, 0)])
    for _ in range(MOST):
        if not pending:
            return
        inside, value, depth = pending.popleft()
        where = ": ".join(filter(None, (source, inside)))
        if depth > DEEPEST:
            raise InputError(f"{name or source} is not allowed: it is nested deeper than {DEEPEST} levels")
        if isinstance(value, list):
            pending += [(f"{inside}[{index}]", inner, depth + 1) for index, inner in enumerate(value)]
        elif isinstance(value, dict):
            for key in value:
                if not isinstance(key, str) or _text_fault(key):
                    raise InputError(f"{where} has the key {shown(key)}, which is not allowed: keys are text")
            pending += [(_inside(inside, key), inner, depth + 1) for key, inner in value.items()]
        elif fault := _fault(value):
            raise InputError(f"{where} {_seen(value)} is not allowed: {fault}")
    if pending:
        raise InputError(f"{name or source} is not allowed: it has more than {MOST} values")


def read_yaml(text: str, name: str) -> object:
    """Read YAML that holds plain values; ``name`` is what a message calls it.

    Only ``true`` and ``false`` are truth values, and ``1:30`` and ``2024-01-01`` are text, as in YAML 1.2.

    Raises
    ------
    InputError : it is no YAML, a key is given twice in one mapping, or a value is not plain.
    """
    try:
        loader = _PlainLoader(text)
        try:
            value = loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, LookupError) as error:
        raise InputError(f"{name} is no YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise InputError(f"{name} is no YAML: it is nested too deeply") from error
    check_plain(value, "", name)
    return value


def _inside(where: str, key: str) -> str:
    if not key.isidentifier():
        return f"{where}[{shown(key)}]"
    return f"{where}.{key}" if where else key


def _seen(value: object) -> str:
    return "a number" if isinstance(value, int) else shown(value)  # Python refuses to write very long ones


def _fault(value: object) -> str | None:
    if isinstance(value, str):
        return _text_fault(value)
    if isinstance(value, float):
        return None if math.isfinite(value) else "it is no finite number"
    if isinstance(value, int):
        return None if abs(value) <= LARGEST else "it does not fit into 64 bits"
    if value is None:
        return None
    return "it is neither null, true, false, a number, text, a list nor a mapping"


def _text_fault(text: str) -> str | None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return "it has half of a Unicode character"
    return None


class _PlainLoader(yaml.SafeLoader):
    """A safe loader that refuses keys given twice, and takes for text what only YAML 1.1 takes for something
    else.
    """

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node, seen = super().compose_mapping_node(anchor), set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in seen:
                mark = key.start_mark
                raise yaml.YAMLError(f"line {mark.line + 1} gives the key {shown(key.value)} a second time")
            seen.add((key.tag, str(key.value)))
        return node

    def resolve(self, kind: type[yaml.Node], value: str, implicit: tuple[bool, bool]) -> str:
        tag = super().resolve(kind, value, implicit)
        narrower = NARROWER.get(tag) if kind is yaml.ScalarNode and implicit[0] else None
        return self.DEFAULT_SCALAR_TAG if narrower and not narrower.fullmatch(value) else tag
