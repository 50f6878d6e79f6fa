"""COCO files as they are found in the wild: whatever can be understood of images, categories and references."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from vertinst.errors import DataError
from vertinst.files import read_json
from vertinst.structures.conversion import Skip

from ._stated import stated_size

__all__ = ["Found", "Image", "LooseCoco", "Mended", "load", "whole"]

# Where writers that know no categories leave the class.
_CLASS_KEYS = ("category", "category_name", "class", "label", "name")
_ATTRIBUTE_KEYS = ("Objekte", *_CLASS_KEYS, "objekt", "klasse", "type", "object")
NO_CLASS = "object"
"""Class of annotations of a file that says nothing of classes."""


@dataclass
class Mended:
    """What was mended or left out in one file.

    Attributes:
        path: The file.
        skips: Of films and annotations.
        often: What is the same for many annotations: listed once, with their number.
    """

    path: Path
    skips: list[Skip] = field(default_factory=list)
    often: Counter[str] = field(default_factory=Counter)

    def add(self, image: str, region: int | None, reason: str, *, repaired: bool = True) -> None:
        """List one film or annotation."""
        self.skips.append(Skip(str(self.path), image, region, reason, repaired=repaired))

    def all(self) -> list[Skip]:
        """Everything, what concerns the whole file first."""
        counted = [f"{text} ({n} times)" if n > 1 else text for text, n in self.often.items()]
        return [Skip(str(self.path), "", None, reason, repaired=True) for reason in counted] + self.skips


@dataclass
class Image:
    """An image of the file.

    Attributes:
        name: File name.
        size: (height, width) px as stated, or None.
        raw: All that the file says of it.
    """

    name: str
    size: tuple[int, int] | None
    raw: Mapping[str, Any]


@dataclass(frozen=True)
class Found:
    """An annotation whose image is known.

    Attributes:
        position: In the list of annotations, from 0.
        image: Position of its image.
        category: Name of its class.
        category_id: As found.
        raw: All that the file says of it.
    """

    position: int
    image: int
    category: str
    category_id: Any
    raw: Mapping[str, Any]


@dataclass(frozen=True)
class LooseCoco:
    """A COCO file as far as it can be understood.

    Attributes:
        images: In the order of the file.
        annotations: Of known images, in the order of the file.
        categories: Names of the classes, in the order of their ids.
        raw_categories: By id, as found.
        mended: What was mended or left out.
    """

    images: list[Image]
    annotations: list[Found]
    categories: list[str]
    raw_categories: dict[Any, Mapping[str, Any]]
    mended: Mended


def load(path: Path) -> LooseCoco:
    """Read a COCO file, mending ids, references, categories and missing entries.

    Raises:
        DataError: Missing, no JSON, or without lists of images and annotations.
    """
    content = read_json(path)
    lists = [content.get(key) for key in ("images", "annotations")] if isinstance(content, dict) else []
    if not lists or not all(isinstance(part, list) for part in lists):
        raise DataError("must have lists of images and annotations", where=path, fix="Give the COCO file.")
    mended = Mended(path)
    if not isinstance(content.get("info"), dict):
        mended.often["info is missing, or no object: written anew"] += 1
    raw_categories = _raw_categories(content.get("categories"), mended)
    names = {key: _text(raw.get("name")) for key, raw in raw_categories.items()}
    images, index = _images(lists[0] or [], mended)
    annotations = _annotations(lists[1] or [], images, index, names, mended)
    return LooseCoco(images, annotations, _ordered(names, annotations), raw_categories, mended)


def whole(value: Any) -> int | None:
    """An integer, also where it is written as 3.0 or "3"; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    text = value.strip() if isinstance(value, str) else ""
    return int(text) if re.fullmatch(r"-?\d{1,18}(\.0+)?", text) and "." not in text else None


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else str(value) if type(value) in (int, float) else ""


def _raw_categories(listed: Any, mended: Mended) -> dict[Any, Mapping[str, Any]]:
    if not isinstance(listed, list) or not listed:
        mended.often["categories are missing: taken from the annotations"] += 1
        return {}
    found: dict[Any, Mapping[str, Any]] = {}
    used: dict[str, Any] = {}
    for raw in listed:
        key, name = (whole(raw.get("id")), _text(raw.get("name"))) if isinstance(raw, dict) else (None, "")
        if key is None:
            mended.often["category without an id: left out"] += 1
            continue
        if not name:
            mended.often["category without a name: named by its id"] += 1
            name = f"category {key}"
        if key in found:
            mended.often["category id occurs twice: the first taken"] += 1
            continue
        if name in used:
            mended.often["category name occurs twice: one class"] += 1
        if type(raw["id"]) is not int:
            mended.often["category id is no integer: read as one"] += 1
        if key < 1:
            mended.often[f"category id {key}: numbered anew from 1"] += 1
        used.setdefault(name, key)
        found[key] = {**raw, "name": name}
    return found


def _ordered(names: Mapping[Any, str], annotations: list[Found]) -> list[str]:
    known = dict.fromkeys(name for _, name in sorted(names.items()))
    return list(known | dict.fromkeys(sorted({a.category for a in annotations} - known.keys())))


def _images(listed: list[Any], mended: Mended) -> tuple[list[Image], dict[Any, int]]:
    """Images, and their positions by id."""
    images: list[Image] = []
    index: dict[Any, int] = {}
    for position, raw in enumerate(listed):
        name = _name(raw) if isinstance(raw, dict) else ""
        if not name:
            mended.add(f"image {position}", None, "image without a file name: left out", repaired=False)
            continue
        size = stated_size(raw.get("height"), raw.get("width"))
        if size is None:
            size = stated_size(whole(raw.get("height")), whole(raw.get("width")))
            if size is not None:
                mended.add(name, None, "width or height written as text: read as number")
        key = raw.get("id")
        number = whole(key)
        if key is None:
            mended.add(name, None, "image without an id: numbered anew")
        elif number is not None and type(key) is not int:
            mended.add(name, None, "image id is no integer: read as one")
        elif number is not None and number < 1:
            mended.add(name, None, f"image id {number}: numbered anew from 1")
        known = number if number is not None else key if isinstance(key, str) else None
        if known is not None and known in index:
            mended.add(name, None, "image id occurs twice: its annotations are those of the first")
        elif known is not None:
            index[known] = len(images)
        images.append(Image(name, size, raw))
    return images, index


def _name(raw: Mapping[str, Any]) -> str:
    for key in ("file_name", "filename", "coco_url", "name", "path"):
        if text := _text(raw.get(key)):
            return text
    return ""


def _annotations(
    listed: list[Any], images: list[Image], index: dict[Any, int], names: Mapping[Any, str], mended: Mended
) -> list[Found]:
    by_name: dict[str, list[int]] = {}
    for position, image in enumerate(images):
        base = PurePosixPath(image.name.replace("\\", "/"))
        for name in dict.fromkeys((image.name, base.name, base.stem)):
            by_name.setdefault(name, []).append(position)
    seen: set[int] = set()
    found = []
    for position, raw in enumerate(listed):
        if not isinstance(raw, dict):
            mended.add("", position, "annotation must be an object: left out", repaired=False)
            continue
        place = _image_of(raw, index, by_name, position, mended)
        if place is None:
            continue
        _check_id(raw.get("id"), seen, position, images[place].name, mended)
        found.append(Found(position, place, _category(raw, names, mended), raw.get("category_id"), raw))
    return found


def _image_of(
    raw: Mapping[str, Any], index: dict[Any, int], by_name: dict[str, list[int]], position: int, mended: Mended
) -> int | None:
    key = raw.get("image_id")
    number = whole(key)
    if number is not None and number in index:
        if type(key) is not int:
            mended.often["image_id is no integer: read as one"] += 1
        return index[number]
    if isinstance(key, str) and key in index:
        return index[key]
    named = by_name.get(_text(key if key is not None else _name(raw)), [])
    if len(named) == 1:
        mended.often["image_id is the name of a film: found by it"] += 1
        return named[0]
    reason = "image_id is the name of several films" if named else "image_id is that of no image"
    mended.add("", position, f"{reason}: left out", repaired=False)
    return None


def _check_id(key: Any, seen: set[int], position: int, film: str, mended: Mended) -> None:
    number = whole(key)
    if number is None:
        mended.often["annotation without an id: numbered anew"] += 1
        return
    if type(key) is not int:
        mended.often["annotation id is no integer: numbered anew"] += 1
    if number < 1:
        mended.add(film, position, f"annotation id {str(number)[:20]}: numbered anew from 1")
    if number in seen:
        mended.add(film, position, "annotation id occurs twice: numbered anew")
    seen.add(number)


def _category(raw: Mapping[str, Any], names: Mapping[Any, str], mended: Mended) -> str:
    key = raw.get("category_id")
    number = whole(key)
    if number in names:
        if type(key) is not int:
            mended.often["category_id is no integer: read as one"] += 1
        return names[number]
    attributes = raw.get("attributes")
    places = [(raw, name) for name in _CLASS_KEYS]
    if isinstance(attributes, dict):
        places += [(attributes, name) for name in _ATTRIBUTE_KEYS]
    text = next((found for place, name in places if (found := _text(place.get(name)))), "")
    if not text and isinstance(key, str):
        text = key.strip()
    if text:
        mended.often["category_id is missing or that of no category: the class is named in the annotation"] += 1
    elif number is not None:
        text = f"category {str(number)[:20]}"
        reason = f"category_id {str(number)[:20]} is that of no category: a class of its own"
        mended.often[reason] += 1
    else:
        text = NO_CLASS
        mended.often[f"annotation without a class: called {NO_CLASS}, to be renamed with --class-map"] += 1
    return text
