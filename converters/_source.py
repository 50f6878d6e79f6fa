"""What a format's reader hands to `_build`: films with regions, as their file wrote them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vertinst.structures.rle import Rle

__all__ = ["Entry", "Options", "Region", "content_of", "tidy"]

Labels = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Options:
    """What a file says of its attributes.

    Attributes:
        region: What ids of dropdown, radio and checkbox options of regions stand for: attribute -> id -> label.
        film: Likewise of films.
        definitions: All it says, as VIA 2 writes `_via_attributes`: `region` and `file`, each name -> definition.
    """

    region: Labels = field(default_factory=dict)
    film: Labels = field(default_factory=dict)
    definitions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Region:
    """One region as found.

    Attributes:
        number: Its number in the file, from 0.
        shape: VIA's `shape_attributes`, of polygon, rect, circle, ellipse, polyline or point; other formats write
            theirs in these. Empty if the file has a mask instead.
        attributes: `region_attributes`; empty if there are none.
        mask: Mask of the film's size, where the file has one instead of a shape.
        instance: Regions of one entry and class with the same text are parts of one instance, where the format itself
            says so; "" leaves it to the instance attribute.
    """

    number: int
    shape: Mapping[str, Any]
    attributes: Mapping[str, Any]
    mask: Rle | None = None
    instance: str = ""


@dataclass(frozen=True)
class Entry:
    """One film as found in one file.

    Attributes:
        file: The annotation file, as the user gave it.
        name: Name of the film as written there.
        attributes: `file_attributes`.
        regions: Possibly none.
        options: What the file says of its attributes; one object for all films of a file.
        source: What the file says of the film's file, by its own names.
        size: (height, width) px as the file states it, or None. A film's own size wins; without films it is needed.
        elsewhere: Where the film can be had if it is not in the image folder, as a sentence; "" if the file is silent.
    """

    file: str
    name: str
    attributes: Mapping[str, Any]
    regions: tuple[Region, ...]
    options: Options = field(default_factory=Options)
    source: Mapping[str, Any] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    elsewhere: str = ""


def as_mapping(region: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Shape or attributes of a region that nobody could read; empty if they are none."""
    value = region.get(key)
    return value if isinstance(value, Mapping) else {}


def tidy(value: Any) -> Any:
    """A JSON value as it can be written again: NaN and infinity, which JSON has not, as text; broken Unicode as `?`."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        # Nearly all are a few plain words, and are taken as they stand.
        if all(type(k) is str and k.isascii() and type(v) is str and v.isascii() for k, v in value.items()):
            return dict(value)
        return {tidy(k): tidy(v) for k, v in value.items()}
    return [tidy(v) for v in value] if isinstance(value, list) else value


def content_of(value: Any) -> Hashable:
    """Something that is equal for equal JSON values and can be looked up."""
    if isinstance(value, dict):
        return frozenset((key, content_of(item)) for key, item in value.items())
    return tuple(map(content_of, value)) if isinstance(value, list | tuple) else value
