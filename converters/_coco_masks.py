"""COCO's `segmentation` to and from a mask with its outlines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vertinst.errors import DataError
from vertinst.structures import rle as rle_masks
from vertinst.structures.dataset import Annotation, Outline
from vertinst.structures.rle import Rle

from ._shapes import RegionFault, check_points, trace

__all__ = ["is_said", "outlines_of", "read_mask", "segmentation_of"]

_KEYS = {"name", "all_points_x", "all_points_y"}
_FIX = "Correct the segmentation or write the file again."


def segmentation_of(annotation: Annotation) -> list[list[float]] | dict[str, Any]:
    """Polygons where they rasterise to exactly the mask, else RLE.

    The polygons are the outlines of the annotation: never traced from the mask, and RLE for `ignore`, as COCO wants
    crowds to be.
    """
    if annotation.outlines and not annotation.ignore:
        shapes = [outline for outline in annotation.outlines if outline.get("name") != "point"]
        if annotation.drawn and shapes:
            return [_flat(shape) for shape in shapes]
        polygons = _polygons(shapes)
        if polygons and _same(polygons, annotation.mask):
            return polygons
    return rle_masks.to_coco(annotation.mask)


def is_said(annotation: Annotation, segmentation: Any) -> bool:
    """Whether `outlines_of` the segmentation gives the annotation's outlines again."""
    if annotation.drawn and isinstance(segmentation, list) and all(o.keys() == _KEYS for o in annotation.outlines):
        return True
    return annotation.outlines == outlines_of(segmentation)


def outlines_of(segmentation: Any) -> tuple[Outline, ...]:
    """A segmentation's polygons as VIA shapes, their numbers untouched; none for RLE."""
    if not isinstance(segmentation, list):
        return ()
    return tuple({"name": "polygon", "all_points_x": p[0::2], "all_points_y": p[1::2]} for p in segmentation)


def read_mask(segmentation: Any, image_size: tuple[int, int], where: object) -> Rle:
    """Mask of a `segmentation` from a stranger's file, checked before any memory is taken for it.

    Args:
        segmentation: Polygons, uncompressed or compressed RLE.
        image_size: (height, width) px.
        where: File and annotation, for messages.

    Raises:
        DataError: It is none of these, is damaged, or is not of the image's size.
    """
    fault = _polygons_fault(segmentation) if isinstance(segmentation, list) else _rle_fault(segmentation)
    if fault is not None:
        raise DataError(fault, where=where, fix=_FIX)
    try:
        return rle_masks.from_coco(segmentation, image_size)
    except DataError as error:
        raise DataError(error.message, where=where, fix=error.fix) from error


def _polygons(outlines: Sequence[Outline]) -> list[list[float]]:
    """Flat polygons of VIA shapes, the numbers of polygons untouched; none if a shape cannot be traced."""
    flat = []
    for outline in outlines:
        try:
            points = trace(outline)
        except RegionFault:
            return []
        if outline.get("name") == "polygon":
            flat.append(_flat(outline))
        else:
            flat.append([round(v, 3) for v in points.ravel().tolist()])
    return flat


def _flat(polygon: Outline) -> list[float]:
    xs, ys = polygon["all_points_x"], polygon["all_points_y"]
    flat = [0.0] * (2 * len(xs))
    flat[0::2], flat[1::2] = xs, ys
    return flat


def _same(polygons: list[list[float]], mask: Rle) -> bool:
    size = mask["size"]
    drawn = rle_masks.polygons_to_rle([np.array(p, dtype=np.float64).reshape(-1, 2) for p in polygons], size)
    return bool(drawn["counts"] == mask["counts"])


def _polygons_fault(segmentation: list[Any]) -> str | None:
    if not segmentation:
        return "segmentation must hold a polygon, got an empty list"
    for polygon in segmentation:
        if not isinstance(polygon, list) or not set(map(type, polygon)) <= {int, float}:
            return "polygon must be a list of numbers: segmentation is a list of such lists"
        if len(polygon) < 6 or len(polygon) % 2:
            return f"polygon must have an even number of at least 6 coordinates, got {len(polygon)}"
        try:
            check_points(np.array(polygon, dtype=np.float64).reshape(-1, 2))
        except (RegionFault, OverflowError) as fault:
            return f"polygon: {fault}"
    return None


def _rle_fault(segmentation: Any) -> str | None:
    if not isinstance(segmentation, Mapping):
        return "segmentation must be polygons or RLE" + (", got none" if segmentation is None else "")
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not set(map(type, size)) <= {int}:
        return "RLE must have a size of two integers"
    if isinstance(counts, str):
        return None
    if not isinstance(counts, list) or not set(map(type, counts)) <= {int}:
        return "RLE counts must be a text or a list of integers"
    return None
