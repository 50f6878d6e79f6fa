"""Segmentations that other tools broke, as polygons or masks again."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vertinst.errors import DataError
from vertinst.structures import rle as rle_masks
from vertinst.structures.rle import Rle

from ._shapes import RegionFault, check_points

__all__ = ["Segments", "box_of", "extent", "measures_fault", "read_segments"]

# Measured otherwise than by us: outlines run through the middle of pixels or around them.
_SLACK_PX = 2.0
_SLACK = 0.02


@dataclass(frozen=True)
class Segments:
    """What a segmentation says.

    Attributes:
        polygons: Flat, as found; none for masks and boxes.
        runs: RLE as found, or None.
        box: (x, y, width, height) px where there is nothing but the box.
        repairs: What was mended.
    """

    polygons: tuple[list[float], ...] = ()
    runs: Mapping[str, Any] | None = None
    box: tuple[float, float, float, float] | None = None
    repairs: tuple[str, ...] = ()

    def mask(self, image_size: tuple[int, int]) -> Rle:
        """Mask of the polygons or runs.

        Raises:
            RegionFault: The runs are damaged or of another size, or there is no pixel.
        """
        try:
            if self.runs is not None:
                mask = rle_masks.from_coco(_runs(self.runs, image_size), image_size)
            else:
                points = [np.array(p, dtype=np.float64).reshape(-1, 2) for p in self.polygons]
                mask = rle_masks.polygons_to_rle(points, image_size)
        except DataError as error:
            raise RegionFault(error.message) from error
        if rle_masks.area(mask) == 0:
            raise RegionFault("covers no pixel of the film")
        return mask


def read_segments(raw: Mapping[str, Any]) -> Segments:
    """Understand the segmentation of an annotation, or its box where it has none.

    Raises:
        RegionFault: Neither can be used.
    """
    segmentation = raw.get("segmentation")
    repairs: list[str] = []
    if isinstance(segmentation, list) and len(segmentation) == 1 and isinstance(segmentation[0], dict):
        repairs.append("segmentation is a list with one RLE: taken out of it")
        segmentation = segmentation[0]
    if isinstance(segmentation, str) and segmentation:
        repairs.append("segmentation is the counts of an RLE alone: the image's size taken")
        segmentation = {"counts": segmentation}
    if isinstance(segmentation, dict):
        return Segments(runs=segmentation, repairs=(*repairs, *_runs_repairs(segmentation)))
    polygons = _polygons(segmentation, repairs) if isinstance(segmentation, list) else []
    if polygons:
        return Segments(tuple(polygons), repairs=tuple(repairs))
    box = box_of(raw)
    if box is None or not (box[2] > 0 and box[3] > 0):
        raise RegionFault(f"{repairs[-1] if repairs else 'has no segmentation'}, and no box with an area")
    return Segments(box=box, repairs=(*repairs, "has no segmentation that can be used: its box taken as a rectangle"))


def box_of(raw: Mapping[str, Any]) -> tuple[float, float, float, float] | None:
    """`bbox` (x, y, width, height) px, or None if there is none that could be one."""
    box = raw.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(v) for v in box):
        return None
    return box[0], box[1], box[2], box[3]


def extent(segments: Segments) -> tuple[float, float]:
    """Largest x and y that polygons or box reach; zeros for runs."""
    if segments.box is not None:
        return segments.box[0] + segments.box[2], segments.box[1] + segments.box[3]
    if not segments.polygons:
        return 0.0, 0.0
    return max(max(p[0::2]) for p in segments.polygons), max(max(p[1::2]) for p in segments.polygons)


def measures_fault(raw: Mapping[str, Any], segments: Segments, mask: Rle) -> list[str]:
    """What is wrong with `area` and `bbox` of an annotation; both are written anew from the mask whatever they say."""
    faults = []
    box, area = box_of(raw), raw.get("area")
    left, top, right, bottom = (float(v) for v in rle_masks.box_xyxy(mask))
    if box is None:
        faults.append("bbox is missing or no box")
    else:
        corners = (*box[:2], box[0] + box[2], box[1] + box[3])
        # Of thin outlines the mask is much shorter: either box is right.
        known = (_box(segments, mask), (left, top, right, bottom))
        if all(max(abs(a - b) for a, b in zip(corners, one, strict=True)) > _SLACK_PX for one in known):
            faults.append("bbox is not that of the mask")
    if not _is_number(area):
        faults.append("area is missing or no number")
    elif isinstance(area, int | float) and not _is_area(area, segments, mask):
        is_box = abs(area - (right - left) * (bottom - top)) <= _SLACK_PX * (right - left + bottom - top)
        faults.append("area is that of the box" if is_box else "area is not that of the mask")
    return faults


def _box(segments: Segments, mask: Rle) -> tuple[float, float, float, float]:
    """Extent of the outline, cut off at the film's edge as masks are."""
    if not segments.polygons:
        left, top, right, bottom = (float(v) for v in rle_masks.box_xyxy(mask))
        return left, top, right, bottom
    height, width = mask["size"]
    xs = np.clip(np.concatenate([p[0::2] for p in segments.polygons]), 0, width)
    ys = np.clip(np.concatenate([p[1::2] for p in segments.polygons]), 0, height)
    return float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max())


def _is_area(area: float, segments: Segments, mask: Rle) -> bool:
    pixels = float(rle_masks.area(mask))
    around = 0.0
    for polygon in segments.polygons:
        points = np.array(polygon, dtype=np.float64).reshape(-1, 2)
        around += float(np.hypot(*np.diff(points, axis=0, append=points[:1]).T).sum())
    shoelace = sum(_shoelace(polygon) for polygon in segments.polygons) or pixels
    # Counting pixels and measuring the outline differ by up to half a pixel all around.
    low, high = min(pixels, shoelace), max(pixels, shoelace)
    slack = _SLACK * high + around / 2 + 1
    return low - slack <= area <= high + slack


def _shoelace(polygon: Sequence[float]) -> float:
    x, y = np.array(polygon[0::2], dtype=np.float64), np.array(polygon[1::2], dtype=np.float64)
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12


def _polygons(segmentation: list[Any], repairs: list[str]) -> list[list[float]]:
    if segmentation and all(type(v) in (int, float) for v in segmentation):
        repairs.append("segmentation is one flat list: taken as one polygon")
        segmentation = [segmentation]
    elif segmentation and all(_is_pair(v) for v in segmentation) and len(segmentation) >= 3:
        repairs.append("segmentation is a list of points: taken as one polygon")
        segmentation = [[number for point in segmentation for number in point]]
    polygons = []
    for polygon in segmentation:
        if isinstance(polygon, list) and polygon and all(_is_pair(v) for v in polygon):
            repairs.append("polygon is a list of points: taken as numbers in turn")
            polygon = [number for point in polygon for number in point]
        usable = _polygon(polygon, repairs)
        if usable is not None:
            polygons.append(usable)
    return polygons


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(v) in (int, float) for v in value)


def _polygon(polygon: Any, repairs: list[str]) -> list[float] | None:
    if not isinstance(polygon, list) or not all(type(v) in (int, float) for v in polygon):
        repairs.append("polygon must be numbers: left out")
        return None
    if len(polygon) % 2:
        repairs.append(f"polygon of {len(polygon)} numbers, which are no pairs: left out")
        return None
    finite = [v for pair in zip(polygon[0::2], polygon[1::2], strict=True) if all(map(_is_finite, pair)) for v in pair]
    if len(finite) < 6:
        repairs.append(f"polygon of {len(finite)} numbers: left out")
        return None
    if len(finite) < len(polygon):
        repairs.append("points that are no finite numbers: left out")
    try:
        check_points(np.array(finite, dtype=np.float64).reshape(-1, 2))
    except (RegionFault, OverflowError) as fault:
        repairs.append(f"polygon: {fault}: left out")
        return None
    return finite if len(finite) < len(polygon) else polygon


def _is_finite(value: float) -> bool:
    return isinstance(value, int) or math.isfinite(value)


def _runs_repairs(runs: Mapping[str, Any]) -> list[str]:
    repairs = []
    size, counts = runs.get("size"), runs.get("counts")
    if isinstance(counts, str) and counts[:2] in ("b'", 'b"'):
        repairs.append("counts are Python's text of bytes: read as such")
    if isinstance(counts, list) and any(type(v) is float for v in counts):
        repairs.append("counts are fractions: read as integers")
    if size is not None and not (isinstance(size, list) and all(type(v) is int for v in size)):
        repairs.append("size of the RLE is no list of integers: the image's taken")
    return repairs


def _runs(runs: Mapping[str, Any], image_size: tuple[int, int]) -> dict[str, Any]:
    size, counts = runs.get("size"), runs.get("counts")
    if isinstance(counts, str) and counts[:2] in ("b'", 'b"'):
        try:
            counts = ast.literal_eval(counts) if len(counts) < 10_000_000 else ""
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            counts = ""
    if isinstance(counts, list):
        if not all(type(v) in (int, float) and 0 <= v <= rle_masks.MAX_PIXELS and v == int(v) for v in counts):
            raise RegionFault("RLE counts must be integers from 0 on")
        counts = [int(v) for v in counts]
    fits = isinstance(size, list) and all(type(v) is int for v in size)
    return {"size": size if fits else list(image_size), "counts": counts}
