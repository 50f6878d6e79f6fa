"""labelme out: one JSON a film."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from vertinst.errors import DataError
from vertinst.files import inside, prepare_folder, write_json
from vertinst.structures import rle as rle_masks
from vertinst.structures.conversion import Skip
from vertinst.structures.dataset import Dataset, ImageRecord
from vertinst.structures.rle import Rle

from ._pieces import Piece, film_attributes, output_names, pieces, refuse_empty, unread_regions
from ._shapes import trace
from ._stated import UNREAD

__all__ = ["write"]

# The version whose files these are; labelme itself reads those of any.
_VERSION = "5.5.0"


def write(dataset: Dataset, path: Path) -> tuple[Skip, ...]:
    """Write a folder of labelme files, one for each film, sub-folders kept; `read` gives the same data set again.

    Copy the films beside the files, and labelme opens them. Outlines are written vertex by vertex where they give the
    mask, an ellipse as a polygon; else the mask as labelme's `mask` shape. Parts share a `group_id`. Attributes that
    are true or false are flags, all others a JSON object in the description, where they can be edited. Regions that
    are no annotations, and the film's attributes, are kept under names of ours, which labelme leaves as they are.

    Args:
        dataset: At least one film.
        path: Folder, new or empty.

    Returns:
        What could not be written as it is.

    Raises:
        OutputExistsError: The folder is not empty, or a file.
        DataError: No film, a name that leads outside of the folder, or an attribute that JSON cannot hold.
        VertinstError: A file cannot be written.
    """
    refuse_empty(dataset, path)
    names = output_names(dataset, ".json")
    targets = {film: inside(path, name) for film, name in names.items()}
    prepare_folder(path)
    losses: list[Skip] = []
    for image in dataset.images:
        try:
            content = _file(image, losses)
            write_json(targets[image.file_name], content, indent=2)
        except (ValueError, TypeError) as error:
            raise DataError(
                "an attribute cannot be written as JSON", where=image.file_name, fix="Use text and numbers."
            ) from error
    return tuple(losses)


def _file(image: ImageRecord, losses: list[Skip]) -> dict[str, Any]:
    content: dict[str, Any] = {
        "version": _VERSION,
        "flags": {},
        "shapes": [_shape(piece, image.file_name, losses) for piece in pieces(image, losses)],
        "imagePath": PurePosixPath(image.file_name.replace("\\", "/")).name,
        "imageData": None,
        "imageHeight": image.height,
        "imageWidth": image.width,
    }
    attributes = film_attributes(image)
    if attributes:
        content["attributes"] = attributes
    if image.unread:
        content[UNREAD] = unread_regions(image)
    return content


def _shape(piece: Piece, film: str, losses: list[Skip]) -> dict[str, Any]:
    mask: str | None = None
    if piece.mask is not None:
        kind, points, mask = "mask", *_encode(piece.mask)
    else:
        kind, points = _points(piece.shape or {})
        if (piece.shape or {}).get("name") == "ellipse":
            losses.append(Skip("", film, None, f"ellipse written as a polygon of {len(points)} points", repaired=True))
    flags = {name: value for name, value in piece.attributes.items() if isinstance(value, bool)}
    others = {name: value for name, value in piece.attributes.items() if not isinstance(value, bool)}
    return {
        "label": piece.category,
        "points": points,
        "group_id": piece.group or None,
        "description": json.dumps(others, ensure_ascii=False, allow_nan=False) if others else "",
        "shape_type": kind,
        "flags": flags,
        "mask": mask,
    }


def _points(shape: Mapping[str, Any]) -> tuple[str, list[list[float]]]:
    name = shape["name"]
    if name == "point":
        return "point", [[shape["cx"], shape["cy"]]]
    if name == "rect" and shape["width"] > 0 and shape["height"] > 0:
        x, y = shape["x"], shape["y"]
        return "rectangle", [[x, y], [x + shape["width"], y + shape["height"]]]
    if name == "circle":
        return "circle", [[shape["cx"], shape["cy"]], [shape["cx"] + shape["r"], shape["cy"]]]
    if name == "polygon":
        return "polygon", [list(p) for p in zip(shape["all_points_x"], shape["all_points_y"], strict=True)]
    return "polygon", trace(shape).tolist()


def _encode(mask: Rle) -> tuple[list[list[float]], str]:
    """Corners (both within) and PNG of a mask, as labelme writes them."""
    left, top, right, bottom = (int(v) for v in rle_masks.box_xyxy(mask))
    patch = rle_masks.decode(mask)[top:bottom, left:right]
    buffer = io.BytesIO()
    Image.fromarray(patch.astype(np.uint8)).save(buffer, format="PNG")
    return [[left, top], [right - 1, bottom - 1]], base64.b64encode(buffer.getvalue()).decode("ascii")
