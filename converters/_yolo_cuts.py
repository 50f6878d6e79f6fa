"""Polygons of YOLO taken apart where their parts and holes are joined by cuts of no width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vertinst.structures import rle as rle_masks
from vertinst.structures.conversion import Skip

from ._shapes import MAX_COORDINATE_PX
from ._source import Region
from ._stated import mask_region

__all__ = ["uncut"]

# Each is rasterised, and compared with every other.
_MAX_RINGS = 200


def uncut(region: Region, size: tuple[int, int] | None, place: Skip, skips: list[Skip]) -> list[Region]:
    """A polygon whose parts and holes are joined by cuts, there and back: its parts, or a mask where it has holes.

    Args:
        region: Any; others come back as they are.
        size: (height, width) px of the film, or None.
        place: File and film, for the list.
        skips: Told of each polygon that was taken apart.
    """
    shape = region.shape
    if shape.get("name") != "polygon" or size is None:
        return [region]
    points = list(zip(shape["all_points_x"], shape["all_points_y"], strict=True))
    edges = set(zip(points, points[1:] + points[:1], strict=True))
    rings = _rings(points) if any((b, a) in edges for a, b in edges if a != b) else []
    # What is broken otherwise is left to the builder, which says so.
    if not rings or np.abs(points).max() > MAX_COORDINATE_PX or len(rings) > _MAX_RINGS:
        return [region]
    masks = [rle_masks.polygons_to_rle([np.array(ring, dtype=np.float64)], size) for ring in rings]
    overlap = rle_masks.iou(masks, masks)
    is_apart = bool((overlap - np.diag(np.diag(overlap)) == 0).all())
    reason = f"polygon joined by cuts: taken as {len(rings)} {'parts' if is_apart else 'parts and holes'}"
    skips.append(replace(place, region=region.number, reason=reason, repaired=True))
    if is_apart:
        instance = f"line {region.number}"
        shapes = [
            {"name": "polygon", "all_points_x": [x for x, _ in ring], "all_points_y": [y for _, y in ring]}
            for ring in rings
        ]
        return [replace(region, shape=part, instance=instance) for part in shapes]
    mask = masks[0]
    for ring in masks[1:]:
        mask = rle_masks.difference(rle_masks.union([mask, ring], size), rle_masks.intersection(mask, ring))
    if rle_masks.area(mask) == 0:
        return [region]
    return [mask_region(region.number, mask, region.attributes)]


def _rings(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Closed walk cut up where it comes back to a point; what encloses nothing is dropped."""
    path: list[tuple[float, float]] = []
    position: dict[tuple[float, float], int] = {}
    rings = []
    for point in (*points, points[0]):
        if point not in position:
            position[point] = len(path)
            path.append(point)
            continue
        loop = path[position[point] :]
        for passed in loop[1:]:
            del position[passed]
        del path[position[point] + 1 :]
        if len(loop) >= 3:
            rings.append(loop)
    return rings
