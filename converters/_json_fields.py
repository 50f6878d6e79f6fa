"""Fields of JSON records from a stranger's file: each of the type it must have, or an error that says where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vertinst.errors import DataError

__all__ = ["flag", "integer", "list_of_dicts", "mapping", "number_pair", "optional_text", "text"]

_FIX = "Correct the file or write it again."


def list_of_dicts(record: Mapping[str, Any], key: str, where: object) -> list[dict[str, Any]]:
    """A list of objects.

    Raises:
        DataError: It is absent, no list, or holds something else.
    """
    value = record.get(key)
    if not isinstance(value, list):
        raise _wrong(key, "a list", value, where)
    for position, item in enumerate(value):
        if not isinstance(item, dict):
            raise _wrong(f"{key}[{position}]", "an object", item, where)
    return value


def integer(record: Mapping[str, Any], key: str, where: object) -> int:
    """An integer; 3.0 is one, true is not.

    Raises:
        DataError: It is absent or something else.
    """
    value = record.get(key)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(key, "an integer", value, where)
    return value


def text(record: Mapping[str, Any], key: str, where: object) -> str:
    """A text that is not blank.

    Raises:
        DataError: It is absent or something else.
    """
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        raise _wrong(key, "a text", value, where)
    return value


def optional_text(record: Mapping[str, Any], key: str, where: object) -> str | None:
    """A text, a number as text, or None where it is absent, null or blank.

    Raises:
        DataError: It is something else.
    """
    value = record.get(key)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text(record, key, where)


def flag(record: Mapping[str, Any], key: str, where: object) -> bool:
    """True or false, also as 1 or 0; absent or null is false.

    Raises:
        DataError: It is something else.
    """
    value = record.get(key)
    if value is None:
        return False
    if not isinstance(value, bool | int) or value not in (0, 1):
        raise _wrong(key, "0 or 1", value, where)
    return bool(value)


def mapping(record: Mapping[str, Any], key: str, where: object) -> dict[str, Any]:
    """An object; empty where it is absent or null.

    Raises:
        DataError: It is something else.
    """
    value = record.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong(key, "an object", value, where)
    return value


def number_pair(value: Any, key: str, where: object) -> tuple[float, float]:
    """Two finite numbers.

    Raises:
        DataError: It is something else.
    """
    if not isinstance(value, list) or len(value) != 2 or not all(_finite(v) for v in value):
        raise _wrong(key, "two numbers", value, where)
    return value[0], value[1]


def _finite(value: Any) -> bool:
    # Compared, not converted: an integer of any length may stand here. NaN is not below anything.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _wrong(key: str, expected: str, value: Any, where: object) -> DataError:
    # The type only: what stands in the wrong place may be anything, a name included.
    got = "nothing" if value is None else type(value).__name__
    return DataError(f"{key} must be {expected}, got {got}", where=where, fix=_FIX)
