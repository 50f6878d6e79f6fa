"""JSON of strangers: how deep it is nested, and whether an object has a key twice."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from vertinst.collector import collector_paused

__all__ = ["MAX_JSON_DEPTH", "parse", "unique"]

# What is deeper is no annotation, and would break whoever walks through it.
MAX_JSON_DEPTH = 100
# What tells the depth of a JSON text: +1 for each byte that opens a container, -1 for each that closes one.
_QUOTE, _COLON = ord('"'), ord(":")
_STEPS = np.zeros(256, dtype=np.int8)
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1
_NO_MARKS = bytes(set(range(256)) - set(b'[]{}":'))
_CONTAINERS = (dict, list)


def parse(raw: bytes, keeps_again: Callable[[str, Any], bool]) -> tuple[Any, int]:
    """Content of a JSON text, and how deep it is nested.

    Args:
        raw: The text, UTF-8 with or without a byte order mark.
        keeps_again: Asked about each key that an object has once more, with the value there: if it is to be kept, it
            is found under `key (2)`. Python itself forgets all values but the last.

    Raises:
        ValueError: It is no JSON, not UTF-8, or has a key twice that is not to be kept.
        RecursionError: It is nested deeper than Python can follow.
    """
    depth, keys = _depth_and_keys(raw)
    text = raw.decode("utf-8-sig")
    # Large files are held in memory once, not twice.
    del raw
    with collector_paused():
        content = json.loads(text)
        if depth <= MAX_JSON_DEPTH and _keys_in([content]) < keys:
            # Read slowly, as hardly any file is.
            content = json.loads(text, object_pairs_hook=lambda pairs: unique(pairs, keeps_again))
        return content, depth


def _depth_and_keys(raw: bytes) -> tuple[int, int]:
    """How deep the containers of a valid JSON text are nested, and its number of keys, whatever strings hold."""
    # What is escaped ends no string; pairs of backslashes go first, as the second of a pair escapes nothing.
    unescaped = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = np.frombuffer(unescaped.translate(None, _NO_MARKS), dtype=np.uint8)
    in_string = np.logical_xor.accumulate(marks == _QUOTE)
    depth = np.cumsum(np.where(in_string, 0, _STEPS[marks]), dtype=np.int32).max(initial=0)
    return int(depth), int(np.count_nonzero((marks == _COLON) & ~in_string))


def _keys_in(content: Any) -> int:
    """Number of keys in a list or dict, at most: of a list that begins with no container nothing is looked at."""
    count = len(content) if isinstance(content, dict) else 0
    for child in content.values() if isinstance(content, dict) else content:
        kind = type(child)
        if kind is dict or (kind is list and child and type(child[0]) in _CONTAINERS):
            count += _keys_in(child)
    return count


def unique(
    pairs: Sequence[tuple[str, Any]], keeps_again: Callable[[str, Any], bool] = lambda key, value: False
) -> dict[str, Any]:
    """An object of its keys and values, as `json.loads` hands them to an `object_pairs_hook`.

    Args:
        pairs: In the order of the text.
        keeps_again: See `parse`.

    Raises:
        ValueError: A key that is not to be kept stands twice.
    """
    found: dict[str, Any] = {}
    numbers: dict[str, Iterator[int]] = {}
    for key, value in pairs:
        name = key
        if key in found:
            if not keeps_again(key, value):
                raise ValueError(f"key {key[:80]!r} stands twice in one object")
            count = numbers.setdefault(key, itertools.count(2))
            name = next(n for i in count if (n := f"{key} ({i})") not in found)
        found[name] = value
    return found
