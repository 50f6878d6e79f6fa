"""Parts of a stranger's JSON, checked one by one: types, sizes, finite numbers. Errors name the place."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from vertinst.errors import DataError
from vertinst.structures import rle
from vertinst.structures.measures import Measure
from vertinst.structures.rle import Rle
from vertinst.structures.spine import is_level

__all__ = [
    "FIX",
    "box",
    "each",
    "grades",
    "keys",
    "level",
    "mask",
    "measures",
    "name",
    "number",
    "point",
    "probability",
    "refused",
    "typed",
    "words",
]

FIX = "Write the file again with `vertinst predict`, or repair it at that place."

# The same as in labelled.schema.json; a plus belongs to relative levels (`cobb_+5_+1_deg`).
_MEASURE = re.compile(r"[A-Za-z][A-Za-z0-9_+]{0,79}")
_RELATIVE = re.compile(r"\+[0-9]+")

T = TypeVar("T")


def refused(message: str, where: str) -> DataError:
    """An error of this file at this place."""
    return DataError(message, where=where, fix=FIX)


def typed(value: Any, kind: type[T], where: str) -> T:
    """A value of this type. JSON's true is an int in Python; it is none in a file, nor anything but `bool`.

    Raises:
        DataError: It is of another type.
    """
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise refused(f"must be of type {kind.__name__}, got {type(value).__name__}", where)
    return value


def keys(entry: Any, expected: tuple[str, ...], where: str) -> None:
    """Check that an object has these keys, all of them and no others.

    Raises:
        DataError: It has not, or it is no object.
    """
    got = typed(entry, dict, where)
    missing = [k for k in expected if k not in got]
    unknown = [str(k)[:40] for k in got if k not in expected]
    if missing or unknown:
        told = [
            f"{word} {', '.join(names[:5])}" for word, names in (("lacks", missing), ("has unknown", unknown)) if names
        ]
        raise refused(" and ".join(told), where)


def each(values: Any, where: str, convert: Callable[[Any, str], T], *, count: int | None = None) -> tuple[T, ...]:
    """Every entry of a list through `convert(entry, where)`; numbered from 1 in errors.

    Args:
        values: Parsed JSON.
        where: Of the list.
        convert: Checks one entry.
        count: How many there must be, if that is fixed.

    Raises:
        DataError: It is no list, of another length, or an entry is refused.
    """
    got = typed(values, list, where)
    if count is not None and len(got) != count:
        raise refused(f"must hold {count} entries, got {len(got)}", where)
    return tuple(convert(v, f"{where} {n}") for n, v in enumerate(got, start=1))


def number(value: Any, where: str) -> float:
    """A finite number that float32 can hold.

    Raises:
        DataError: It is none.
    """
    result = float("nan")
    if isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53):
        result = float(value)
    # The structures hold float32: what overflows there is no coordinate.
    if not math.isfinite(result) or abs(result) > 1e30:
        raise refused(f"must be a finite number, got {str(value)[:20]}", where)
    return result


def probability(value: Any, where: str, what: str) -> float:
    """A number in 0..1, both included; `what` names it in errors, and `where` its place without that name.

    Raises:
        DataError: It is none.
    """
    result = number(value, f"{where}, {what}")
    if not 0 <= result <= 1:
        raise refused(f"{what} must lie in 0..1, got {result:g}", where)
    return result


def point(value: Any, where: str) -> tuple[float, float]:
    """Two finite numbers.

    Raises:
        DataError: They are not.
    """
    x, y = each(value, where, number, count=2)
    return x, y


def name(value: Any, where: str) -> str:
    """A text that is not empty.

    Raises:
        DataError: It is empty or no text.
    """
    if not typed(value, str, where):
        raise refused("must not be empty", where)
    return str(value)


def words(values: Any, where: str) -> tuple[str, ...]:
    """A list of texts.

    Raises:
        DataError: It is none.
    """
    return each(values, where, lambda word, at: typed(word, str, at))


def level(value: Any, where: str) -> str:
    """A level's name such as L5 or +1.

    Raises:
        DataError: There is no such level.
    """
    text = typed(value, str, where)
    if not is_level(text) and not _RELATIVE.fullmatch(text):
        raise refused(f"must be a level like L5 or +1, got {text[:20]!r}", where)
    return text


def measures(values: Any, where: str) -> dict[str, Measure]:
    """Measures by name: finite values, each with a standard deviation of at least 0, or null where it is unknown.

    Raises:
        DataError: A name or a number is none.
    """
    return {_key(key, where): _measure(entry, f"{where}, {key}") for key, entry in typed(values, dict, where).items()}


def _measure(entry: Any, where: str) -> Measure:
    keys(entry, ("value", "sd"), where)
    sd = None if entry["sd"] is None else number(entry["sd"], f"{where}, sd")
    if sd is not None and sd < 0:
        raise refused(f"sd must not be negative, got {sd:g}", where)
    return Measure(number(entry["value"], f"{where}, value"), sd)


def grades(values: Any, where: str) -> dict[str, int]:
    """Grades by name, 0 or more.

    Raises:
        DataError: A name or a grade is none.
    """
    return {_key(key, where): _grade(entry, f"{where}, {key}") for key, entry in typed(values, dict, where).items()}


def _grade(value: Any, where: str) -> int:
    grade = typed(value, int, where)
    if not 0 <= grade <= 100:
        raise refused(f"must be a grade of 0 or more, got {str(grade)[:20]}", where)
    return grade


def _key(key: str, where: str) -> str:
    if not _MEASURE.fullmatch(key):
        raise refused(f"names must be of letters, digits and _, got {key[:40]!r}", where)
    return key


def mask(segmentation: Mapping[str, Any], image_size: tuple[int, int], where: str) -> Rle:
    """A mask of the film's size from COCO's compressed RLE.

    Raises:
        DataError: It is none, damaged, or of another size.
    """
    keys(segmentation, ("size", "counts"), where)
    typed(segmentation["counts"], str, f"{where}, counts")
    each(segmentation["size"], f"{where}, size", lambda v, at: typed(v, int, at))
    try:
        return rle.from_coco(segmentation, image_size)
    except DataError as error:
        raise DataError(error.message, where=where, fix=error.fix) from error


def box(value: Any, where: str) -> npt.NDArray[np.float32]:
    """Four finite numbers as a (4,) float32 box.

    Raises:
        DataError: They are not.
    """
    numbers = each(value, f"{where}, box_xyxy_px", number)
    if len(numbers) != 4:
        raise refused(f"box_xyxy_px must hold 4 numbers, got {len(numbers)}", where)
    return np.array(numbers, dtype=np.float32)
