"""From a parsed labelled JSON, as a stranger's file, back to a spine. Versions 1 and 2 are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from vertinst.errors import DataError
from vertinst.report import labelled_fields as fields
from vertinst.structures import rle
from vertinst.structures.measures import CORNERS, VIEWS, Body, Disc, Orientation, Osteophyte, Scale
from vertinst.structures.spine import Implant, Naming, Spine, Vertebra

__all__ = ["SCHEMA_VERSION", "from_json"]

SCHEMA_VERSION = 2

_PARTS = (
    "schema_version",
    "disclaimer",
    "image",
    "software",
    "flags",
    "naming",
    "construct",
    "values",
    "vertebrae",
    "discs",
    "implants",
    "overlaps",
    "candidates",
    "log",
)
_IMAGE = ("file_name", "width", "height", "view", "orientation", "pixel_spacing_mm", "pixel_spacing_source")
_FOUND = ("category", "score", "box_xyxy_px", "segmentation", "flags")
_RIGHT_ANGLE = 1e-3
"""How far the axes of a film may be from unit length and from a right angle."""


def from_json(content: Any, *, where: str) -> tuple[str, Spine, dict[str, Any]]:
    """Inverse of `labelled.to_json`, but for what it rounds; files of version 1 are read as well.

    Not read back is what follows from the rest: polygons, since the RLE is the exact mask, names of discs, overlaps.

    Args:
        content: Parsed JSON, of any type.
        where: Named in errors.

    Returns:
        The film's file name, not yet fit to be joined to a folder (see `files.inside`); the spine; the provenance.

    Raises:
        DataError: The content is not of the form of the schema, or its masks do not fit the film.
    """
    if not isinstance(content, dict) or "schema_version" not in content or "vertebrae" not in content:
        raise DataError(
            "must be a labelled JSON of vertinst, got another kind of file",
            where=where,
            fix="Move it out of the results folder, or give the folder that `vertinst predict` wrote.",
        )
    if content["schema_version"] == 1:
        content = _of_version_2(content)
    if content["schema_version"] != SCHEMA_VERSION:
        raise DataError(
            f"schema_version must be {SCHEMA_VERSION} or 1, got {str(content['schema_version'])[:20]}",
            where=where,
            fix="Read it with the version of vertinst that wrote it, or predict the film again.",
        )
    fields.keys(content, _PARTS, where)
    fields.each(content["overlaps"], f"{where}, overlaps", lambda pair, at: fields.typed(pair, dict, at))
    file_name, spine = _film(content, where)
    provenance: dict[str, Any] = fields.typed(content["software"], dict, f"{where}, software")
    return file_name, spine, provenance


def _of_version_2(content: Mapping[str, Any]) -> dict[str, Any]:
    """A file of version 1 with the parts that version 2 adds, empty; what is of a wrong type is left for the checks."""

    def with_empty(entry: Any, **empty: Any) -> Any:
        return {**empty, **entry} if isinstance(entry, dict) else entry

    def each(entries: Any, **empty: Any) -> Any:
        return [with_empty(entry, **empty) for entry in entries] if isinstance(entries, list) else entries

    new: dict[str, Any] = {"naming": None, "construct": "", "values": {}, "discs": [], "overlaps": []}
    return {
        **new,
        **content,
        "schema_version": 2,
        "image": with_empty(content.get("image"), view="lateral", orientation=None),
        "vertebrae": each(content.get("vertebrae"), confidence=None, body=None),
        "implants": each(content.get("implants"), levels=[]),
    }


def _film(content: Mapping[str, Any], where: str) -> tuple[str, Spine]:
    image, at = content["image"], f"{where}, image"
    fields.keys(image, _IMAGE, at)
    file_name = fields.name(image["file_name"], f"{at}, file_name")
    size = _size(image, at)
    if image["view"] not in VIEWS:
        raise fields.refused(f"view must be {' or '.join(VIEWS)}, got {str(image['view'])[:20]}", at)
    vertebrae = fields.each(content["vertebrae"], f"{where}, vertebrae", lambda v, a: _vertebra(v, size, a))
    try:
        return file_name, Spine(
            size,
            vertebrae,
            fields.each(content["implants"], f"{where}, implants", lambda i, a: _implant(i, size, a)),
            fields.each(content["candidates"], f"{where}, candidates", lambda c, a: _candidate(c, size, a)),
            fields.words(content["flags"], f"{where}, flags"),
            fields.each(content["log"], f"{where}, log", lambda event, a: fields.typed(event, dict, a)),
            _naming(content["naming"], len(vertebrae), f"{where}, naming"),
            fields.typed(content["construct"], str, f"{where}, construct"),
            image["view"],
            _orientation(image["orientation"], f"{at}, orientation"),
            _scale(image, at),
            fields.each(content["discs"], f"{where}, discs", _disc),
            fields.measures(content["values"], f"{where}, values"),
        )
    except DataError as error:
        raise error if error.where else DataError(error.message, where=where, fix=error.fix) from error


def _size(image: Mapping[str, Any], where: str) -> tuple[int, int]:
    size = (
        fields.typed(image["height"], int, f"{where}, height"),
        fields.typed(image["width"], int, f"{where}, width"),
    )
    try:
        return rle.check_size(size)
    except DataError as error:
        raise DataError(error.message, where=where, fix=error.fix) from error


def _scale(image: Mapping[str, Any], where: str) -> Scale | None:
    spacing, source = image["pixel_spacing_mm"], image["pixel_spacing_source"]
    if spacing is None:
        if source is not None:
            raise fields.refused("pixel_spacing_source must be null where pixel_spacing_mm is", where)
        return None
    at = f"{where}, pixel_spacing_mm"
    fields.keys(spacing, ("row", "column"), at)
    row, column = (fields.number(spacing[key], f"{at}, {key}") for key in ("row", "column"))
    if row <= 0 or column <= 0:
        raise fields.refused(f"must be above 0, got {row:g} and {column:g}", at)
    return Scale(row, column, fields.name(source, f"{where}, pixel_spacing_source"))


def _orientation(entry: Any, where: str) -> Orientation | None:
    if entry is None:
        return None
    fields.keys(entry, ("up", "anterior", "sure"), where)
    up, anterior = (np.array(fields.point(entry[key], f"{where}, {key}")) for key in ("up", "anterior"))
    lengths = np.hypot(up[0], up[1]), np.hypot(anterior[0], anterior[1])
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(up @ anterior)) > _RIGHT_ANGLE:
        raise fields.refused("up and anterior must be of length 1 and at a right angle", where)
    return Orientation(up, anterior, fields.typed(entry["sure"], bool, f"{where}, sure"))


def _naming(entry: Any, count: int, where: str) -> Naming | None:
    if entry is None:
        return None
    fields.keys(entry, ("probability", "next_best", "next_probability", "anchor"), where)
    at = f"{where}, next_best"
    next_best = fields.each(entry["next_best"], at, lambda v, a: "" if v == "" else fields.level(v, a))
    if len(next_best) not in (0, count):
        raise fields.refused(f"must hold one level a vertebra ({count}) or none, got {len(next_best)}", at)
    probabilities = [fields.probability(entry[key], where, key) for key in ("probability", "next_probability")]
    anchor = None if entry["anchor"] is None else fields.name(entry["anchor"], f"{where}, anchor")
    return Naming(probabilities[0], next_best, probabilities[1], anchor)


def _vertebra(entry: Any, image_size: tuple[int, int], where: str) -> Vertebra:
    fields.keys(entry, ("level", "confidence", *_FOUND, "polygons", "body"), where)
    confidence = None if entry["confidence"] is None else fields.probability(entry["confidence"], where, "confidence")
    level = fields.level(entry["level"], f"{where}, level")
    return Vertebra(
        level,
        **_found(entry, image_size, where),
        confidence=confidence,
        body=_body(entry["body"], f"{where}, body"),
    )


def _body(entry: Any, where: str) -> Body | None:
    if entry is None:
        return None
    fields.keys(entry, ("corners_px", "corners_sd_px", "values", "grades", "osteophytes"), where)
    return Body(
        np.array(fields.each(entry["corners_px"], f"{where}, corners_px", fields.point, count=4)),
        np.array(fields.each(entry["corners_sd_px"], f"{where}, corners_sd_px", _sd_or_nan, count=4)),
        fields.measures(entry["values"], f"{where}, values"),
        fields.grades(entry["grades"], f"{where}, grades"),
        fields.each(entry["osteophytes"], f"{where}, osteophytes", _osteophyte),
    )


def _sd_or_nan(value: Any, where: str) -> float:
    sd = float("nan") if value is None else fields.number(value, where)
    if sd < 0:
        raise fields.refused(f"must not be negative, got {sd:g}", where)
    return sd


def _osteophyte(entry: Any, where: str) -> Osteophyte:
    fields.keys(entry, ("corner", "area_px2", "centre_px"), where)
    if entry["corner"] not in CORNERS:
        raise fields.refused(f"corner must be one of {', '.join(CORNERS)}, got {str(entry['corner'])[:30]}", where)
    area = fields.number(entry["area_px2"], f"{where}, area_px2")
    if area <= 0:
        raise fields.refused(f"area_px2 must be above 0, got {area:g}", where)
    return Osteophyte(entry["corner"], area, fields.point(entry["centre_px"], f"{where}, centre_px"))


def _disc(entry: Any, where: str) -> Disc:
    fields.keys(entry, ("upper", "lower", "name", "values", "grades"), where)
    fields.name(entry["name"], f"{where}, name")
    return Disc(
        fields.level(entry["upper"], f"{where}, upper"),
        fields.level(entry["lower"], f"{where}, lower"),
        fields.measures(entry["values"], f"{where}, values"),
        fields.grades(entry["grades"], f"{where}, grades"),
    )


def _implant(entry: Any, image_size: tuple[int, int], where: str) -> Implant:
    fields.keys(entry, (*_FOUND, "polygons", "levels"), where)
    levels = fields.each(entry["levels"], f"{where}, levels", fields.level)
    return Implant(**_found(entry, image_size, where), levels=levels)


def _candidate(entry: Any, image_size: tuple[int, int], where: str) -> Implant:
    fields.keys(entry, _FOUND, where)
    return Implant(**_found(entry, image_size, where))


def _found(entry: Mapping[str, Any], image_size: tuple[int, int], where: str) -> dict[str, Any]:
    box: npt.NDArray[np.float32] = fields.box(entry["box_xyxy_px"], where)
    return {
        "category": fields.name(entry["category"], f"{where}, category"),
        "score": fields.probability(entry["score"], where, "score"),
        "box": box,
        "mask": fields.mask(entry["segmentation"], image_size, f"{where}, segmentation"),
        "flags": fields.words(entry["flags"], f"{where}, flags"),
    }
