"""Labelled JSON: one file a film, for the next program to read. Its form is `labelled.schema.json`, in this folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from vertinst.files import read_json, write_json
from vertinst.postprocess.merge import overlaps
from vertinst.report.labelled_reading import SCHEMA_VERSION, from_json
from vertinst.structures import rle
from vertinst.structures.measures import Body, Disc, Measure, Orientation, Scale
from vertinst.structures.rle import Rle
from vertinst.structures.spine import Implant, Naming, Spine, Vertebra

__all__ = ["DISCLAIMER", "SCHEMA_VERSION", "from_json", "read", "schema", "to_json", "write"]

DISCLAIMER = "Research software, not a medical device."

_DECIMALS = 4
"""Of measures, coordinates of landmarks, and probabilities: far below what an outline on pixels can tell."""
_DIRECTION_DECIMALS = 9
"""Of unit vectors, which are multiplied with whole films."""


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) that every written file keeps to."""
    text = resources.files("vertinst.report").joinpath("labelled.schema.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def to_json(spine: Spine, *, file_name: str, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The labelled JSON of one film, ready to be written.

    Measures, landmarks and probabilities are rounded to 4 decimals, directions to 9; scores and boxes are as they are.
    A number that is not finite is no measurement: such a measure is left out, such a standard deviation is null, and a
    body with such a corner is null.

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
            "view": spine.view,
            "orientation": _orientation(spine.orientation),
            **_spacing(spine.scale),
        },
        "software": dict(provenance),
        "flags": list(spine.flags),
        "naming": _naming(spine.naming),
        "construct": spine.construct,
        "values": _measures(spine.values),
        "vertebrae": [_vertebra(v) for v in spine.vertebrae],
        "discs": [_disc(d) for d in spine.discs],
        "implants": [{**_found(i), "levels": list(i.levels), "polygons": _polygons(i.mask)} for i in spine.implants],
        "overlaps": overlaps(spine),
        "candidates": [_found(c) for c in spine.candidates],
        "log": [dict(event) for event in spine.log],
    }


def _spacing(scale: Scale | None) -> dict[str, Any]:
    if scale is None:
        return {"pixel_spacing_mm": None, "pixel_spacing_source": None}
    spacing = {"row": float(scale.row_mm), "column": float(scale.column_mm)}
    return {"pixel_spacing_mm": spacing, "pixel_spacing_source": scale.source}


def _orientation(orientation: Orientation | None) -> dict[str, Any] | None:
    if orientation is None:
        return None
    axes = {"up": orientation.up, "anterior": orientation.anterior}
    return {
        **{name: [round(float(v), _DIRECTION_DECIMALS) for v in axis] for name, axis in axes.items()},
        "sure": bool(orientation.sure),
    }


def _naming(naming: Naming | None) -> dict[str, Any] | None:
    if naming is None:
        return None
    return {
        "probability": _rounded(naming.probability),
        "next_best": list(naming.next_best),
        "next_probability": _rounded(naming.next_probability),
        "anchor": naming.anchor,
    }


def _vertebra(vertebra: Vertebra) -> dict[str, Any]:
    return {
        "level": vertebra.level,
        "confidence": None if vertebra.confidence is None else _rounded(vertebra.confidence),
        **_found(vertebra),
        "polygons": _polygons(vertebra.mask),
        "body": _body(vertebra.body),
    }


def _body(body: Body | None) -> dict[str, Any] | None:
    if body is None or not np.isfinite(body.corners_px).all():
        return None
    return {
        "corners_px": [[_rounded(x), _rounded(y)] for x, y in body.corners_px],
        "corners_sd_px": [_rounded_or_none(sd) for sd in body.corners_sd_px],
        "values": _measures(body.values),
        "grades": {name: int(grade) for name, grade in body.grades.items()},
        "osteophytes": [
            {
                "corner": o.corner,
                "area_px2": _rounded(o.area_px2),
                "centre_px": [_rounded(v) for v in o.centre_px],
            }
            for o in body.osteophytes
        ],
    }


def _disc(disc: Disc) -> dict[str, Any]:
    return {
        "upper": disc.upper,
        "lower": disc.lower,
        "name": disc.name,
        "values": _measures(disc.values),
        "grades": {name: int(grade) for name, grade in disc.grades.items()},
    }


def _found(found: Vertebra | Implant) -> dict[str, Any]:
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


def _measures(values: Mapping[str, Measure]) -> dict[str, dict[str, float | None]]:
    return {
        name: {"value": _rounded(measure.value), "sd": _rounded_or_none(measure.sd)}
        for name, measure in values.items()
        if math.isfinite(measure.value)
    }


def _rounded(value: float) -> float:
    return round(float(value), _DECIMALS)


def _rounded_or_none(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else _rounded(value)


def write(spine: Spine, path: Path, *, file_name: str, provenance: Mapping[str, Any]) -> None:
    """Write the labelled JSON of one film, aside and renamed; see `to_json`.

    Raises:
        VertinstError: The file cannot be written.
    """
    write_json(path, to_json(spine, file_name=file_name, provenance=provenance))


def read(path: Path) -> tuple[str, Spine, dict[str, Any]]:
    """Read a labelled JSON as a stranger's file: every type, size and mask is checked. Versions 1 and 2 are read.

    Returns:
        The film's file name, not yet fit to be joined to a folder (see `files.inside`); the spine; the provenance.

    Raises:
        DataError: The file is missing, not JSON, of another form or version, or its masks do not fit the film.
    """
    return from_json(read_json(path), where=str(path))
