"""Labelled JSON: one file a film, for the next program to read. Its form is `labelled.schema.json`, in this folder."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from vertinst.errors import DataError
from vertinst.files import read_json, write_json
from vertinst.structures import rle
from vertinst.structures.rle import Rle
from vertinst.structures.spine import Implant, Spine, Vertebra

__all__ = ["DISCLAIMER", "SCHEMA_VERSION", "from_json", "read", "schema", "to_json", "write"]

SCHEMA_VERSION = 1
DISCLAIMER = "Research software, not a medical device."

_FIX = "Write the file again with `vertinst predict`, or repair it at that place."
_FOUND = ("category", "score", "box_xyxy_px", "segmentation", "flags")

T = TypeVar("T")


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) that every written file keeps to."""
    text = resources.files("vertinst.report").joinpath("labelled.schema.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def to_json(spine: Spine, *, file_name: str, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The labelled JSON of one film, ready to be written.

    Args:
        spine: What was found; nothing at all is ordinary.
        file_name: The film's, relative to its folder.
        provenance: How it was made (model, weights, precision, versions), JSON-ready; written as `software`.
    """
    height, width = spine.image_size
    return {
        "schema_version": SCHEMA_VERSION,
        "disclaimer": DISCLAIMER,
        "image": {
            "file_name": file_name,
            "width": width,
            "height": height,
            "pixel_spacing_mm": None,
            "pixel_spacing_source": None,
        },
        "software": dict(provenance),
        "flags": list(spine.flags),
        "vertebrae": [{"level": v.level, **_found_to_json(v), "polygons": _polygons(v.mask)} for v in spine.vertebrae],
        "implants": [{**_found_to_json(i), "polygons": _polygons(i.mask)} for i in spine.implants],
        "candidates": [_found_to_json(c) for c in spine.candidates],
        "log": [dict(event) for event in spine.log],
    }


def _found_to_json(found: Vertebra | Implant) -> dict[str, Any]:
    return {
        "category": found.category,
        "score": float(found.score),
        "box_xyxy_px": [float(v) for v in found.box],
        "segmentation": rle.to_coco(found.mask),
        "flags": list(found.flags),
    }


def _polygons(mask: Rle) -> list[dict[str, Any]]:
    return [
        {"exterior": part.exterior.tolist(), "holes": [hole.tolist() for hole in part.holes]}
        for part in rle.rle_to_polygons(mask)
    ]


def write(spine: Spine, path: Path, *, file_name: str, provenance: Mapping[str, Any]) -> None:
    """Write the labelled JSON of one film, aside and renamed; see `to_json`.

    Raises:
        VertinstError: The file cannot be written.
    """
    write_json(path, to_json(spine, file_name=file_name, provenance=provenance))


def read(path: Path) -> tuple[str, Spine, dict[str, Any]]:
    """Read a labelled JSON as a stranger's file: every type, size and mask is checked.

    Returns:
        The film's file name, not yet fit to be joined to a folder (see `files.inside`); the spine; the provenance.

    Raises:
        DataError: The file is missing, not JSON, of another form or version, or its masks do not fit the film.
    """
    return from_json(read_json(path), where=str(path))


def from_json(content: Any, *, where: str) -> tuple[str, Spine, dict[str, Any]]:
    """Inverse of `to_json`; polygons are not read back, since the RLE is the exact mask.

    Args:
        content: Parsed JSON, of any type.
        where: Named in errors.

    Returns:
        File name, spine, provenance.

    Raises:
        DataError: The content is not of the form of the schema, or its masks do not fit the film.
    """
    if not isinstance(content, dict) or "schema_version" not in content or "vertebrae" not in content:
        raise DataError(
            "must be a labelled JSON of vertinst, got another kind of file",
            where=where,
            fix="Move it out of the results folder, or give the folder that `vertinst predict` wrote.",
        )
    if content["schema_version"] != SCHEMA_VERSION:
        raise DataError(
            f"schema_version must be {SCHEMA_VERSION}, got {str(content['schema_version'])[:20]}",
            where=where,
            fix="Read it with the version of vertinst that wrote it, or predict the film again.",
        )
    parts = ("schema_version", "disclaimer", "image", "software", "flags", "vertebrae", "implants", "candidates", "log")
    _keys(content, parts, where)
    file_name, image_size = _image(content["image"], f"{where}, image")
    provenance: dict[str, Any] = _typed(content["software"], dict, f"{where}, software")
    log = _each(content["log"], f"{where}, log", lambda event, at: _typed(event, dict, at))
    try:
        spine = Spine(
            image_size,
            _each(content["vertebrae"], f"{where}, vertebrae", lambda v, at: _vertebra(v, image_size, at)),
            _each(content["implants"], f"{where}, implants", lambda i, at: _implant(i, image_size, at, "polygons")),
            _each(content["candidates"], f"{where}, candidates", lambda c, at: _implant(c, image_size, at)),
            _flags(content["flags"], f"{where}, flags"),
            log,
        )
    except DataError as error:
        raise error if error.where else DataError(error.message, where=where, fix=error.fix) from error
    return file_name, spine, provenance


def _image(image: Any, where: str) -> tuple[str, tuple[int, int]]:
    _keys(image, ("file_name", "width", "height", "pixel_spacing_mm", "pixel_spacing_source"), where)
    name = _name(image["file_name"], f"{where}, file_name")
    for key in ("pixel_spacing_mm", "pixel_spacing_source"):
        if image[key] is not None:
            raise DataError(f"{key} must be null in version {SCHEMA_VERSION}", where=where, fix=_FIX)
    size = _typed(image["height"], int, f"{where}, height"), _typed(image["width"], int, f"{where}, width")
    try:
        return name, rle.check_size(size)
    except DataError as error:
        raise DataError(error.message, where=where, fix=error.fix) from error


def _vertebra(entry: Any, image_size: tuple[int, int], where: str) -> Vertebra:
    _keys(entry, ("level", *_FOUND, "polygons"), where)
    level = _typed(entry["level"], str, f"{where}, level")
    category, score, box, mask, flags = _found(entry, image_size, where)
    try:
        return Vertebra(level, category, score, box, mask, flags)
    except DataError as error:
        raise DataError(error.message, where=where, fix=error.fix) from error


def _implant(entry: Any, image_size: tuple[int, int], where: str, *more: str) -> Implant:
    _keys(entry, (*_FOUND, *more), where)
    return Implant(*_found(entry, image_size, where))


def _found(
    entry: Mapping[str, Any], image_size: tuple[int, int], where: str
) -> tuple[str, float, npt.NDArray[np.float32], Rle, tuple[str, ...]]:
    category = _name(entry["category"], f"{where}, category")
    score = _number(entry["score"], f"{where}, score")
    if not 0 <= score <= 1:
        raise DataError(f"score must lie in 0..1, got {score:g}", where=where, fix=_FIX)
    box = _each(entry["box_xyxy_px"], f"{where}, box_xyxy_px", _number)
    if len(box) != 4:
        raise DataError(f"box_xyxy_px must hold 4 numbers, got {len(box)}", where=where, fix=_FIX)
    mask = _mask(entry["segmentation"], image_size, f"{where}, segmentation")
    return category, score, np.array(box, dtype=np.float32), mask, _flags(entry["flags"], f"{where}, flags")


def _mask(segmentation: Any, image_size: tuple[int, int], where: str) -> Rle:
    _keys(segmentation, ("size", "counts"), where)
    _typed(segmentation["counts"], str, f"{where}, counts")
    _each(segmentation["size"], f"{where}, size", lambda v, at: _typed(v, int, at))
    try:
        return rle.from_coco(segmentation, image_size)
    except DataError as error:
        raise DataError(error.message, where=where, fix=error.fix) from error


def _name(value: Any, where: str) -> str:
    if not _typed(value, str, where):
        raise DataError("must not be empty", where=where, fix=_FIX)
    return str(value)


def _flags(flags: Any, where: str) -> tuple[str, ...]:
    return _each(flags, where, lambda flag, at: _typed(flag, str, at))


def _keys(entry: Any, expected: tuple[str, ...], where: str) -> None:
    got = _typed(entry, dict, where)
    missing = [k for k in expected if k not in got]
    unknown = [str(k)[:40] for k in got if k not in expected]
    if missing or unknown:
        told = [
            f"{word} {', '.join(names[:5])}" for word, names in (("lacks", missing), ("has unknown", unknown)) if names
        ]
        raise DataError(" and ".join(told), where=where, fix=_FIX)


def _each(values: Any, where: str, convert: Callable[[Any, str], T]) -> tuple[T, ...]:
    return tuple(convert(v, f"{where} {n}") for n, v in enumerate(_typed(values, list, where), start=1))


def _number(value: Any, where: str) -> float:
    number = float("nan")
    if isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53):
        number = float(value)
    # The structures hold float32: what overflows there is no coordinate.
    if not math.isfinite(number) or abs(number) > 1e30:
        raise DataError(f"must be a finite number, got {str(value)[:20]}", where=where, fix=_FIX)
    return number


def _typed(value: Any, kind: type[T], where: str) -> T:
    # JSON's true is an int in Python; it is none in a file.
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DataError(f"must be of type {kind.__name__}, got {type(value).__name__}", where=where, fix=_FIX)
    return value
