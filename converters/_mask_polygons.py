"""Masks as simple polygons without holes, for formats that have nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt
import shapely

from vertinst.structures import rle as rle_masks
from vertinst.structures.rle import Rle

__all__ = ["simple_polygons"]

Patch = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float64]

_BRIDGED_PX = 0.8
# Distances from as many pixels to all vertices are held in memory together.
_AT_ONCE = 256


def simple_polygons(mask: Rle) -> list[Points]:
    """Polygons that cover exactly the pixels of a mask.

    None of them crosses or touches itself. Parts that touch only at corners are polygons of their own, and a part with
    holes is cut through these, so that its pieces lie around them: a slit from the outer edge to the hole would be one
    polygon, but one that touches itself, which many programs refuse or fill in.

    Args:
        mask: Any; its memory is taken once as a dense picture.

    Returns:
        Each (V, 2) float64 xy px, V >= 3, not closed; largest pieces first; none for an empty mask. Rasterised again
        their union is the mask.
    """
    left, top, right, bottom = (int(v) for v in rle_masks.box_xyxy(mask))
    if right <= left:
        return []
    patch = rle_masks.decode(mask)[top:bottom, left:right].astype(bool)
    found = [points + np.array([left, top]) for points in _pieces(patch)]
    return sorted(found, key=lambda points: -cv2.contourArea(points.astype(np.float32)))


def _pieces(patch: Patch) -> Iterator[Points]:
    waiting = [(patch, 0, 0)]
    while waiting:
        dense, left, top = waiting.pop()
        count, labels, boxes, _ = cv2.connectedComponentsWithStats(dense.astype(np.uint8), connectivity=4)
        for number in range(1, count):
            x, y, width, height = (int(v) for v in boxes[number][:4])
            part = labels[y : y + height, x : x + width] == number
            outline, *_ = rle_masks.rle_to_polygons(rle_masks.encode(part))
            if not outline.holes:
                yield _thinned(outline.exterior, part) + np.array([left + x, top + y])
                continue
            column = _middle(outline.holes[len(outline.holes) // 2])
            waiting.append((part[:, :column], left + x, top + y))
            waiting.append((part[:, column:], left + x + column, top + y))


def _middle(hole: Points) -> int:
    """A column of pixels inside a hole, whose outline runs on the pixels around it."""
    first, last = int(np.floor(hole[:, 0].min())) + 1, int(np.floor(hole[:, 0].max())) - 1
    return (first + last + 1) // 2


def _thinned(outline: Points, part: Patch) -> Points:
    """As few of the vertices as still give the same pixels, so that a person can drag what is left.

    Long straight runs are bridged first; wherever that turned a pixel, the nearest vertex left out comes back.
    """
    kept = _bridged(outline)
    while not kept.all():
        curve = outline[kept]
        drawn = rle_masks.decode(rle_masks.polygons_to_rle([curve], part.shape)) if len(curve) >= 3 else ~part
        turned = np.argwhere(drawn != part)[:_AT_ONCE, ::-1] + 0.5
        if not len(turned):
            return curve if shapely.Polygon(curve).is_valid else outline
        out = np.flatnonzero(~kept)
        distances = ((turned[:, None, :] - outline[out][None]) ** 2).sum(axis=2)
        kept[out[distances.argmin(axis=1)]] = True
    return outline


def _bridged(outline: Points) -> Patch:
    """Which vertices a simplification within a pixel's width keeps."""
    curve = cv2.approxPolyDP(outline.astype(np.float32)[:, None], _BRIDGED_PX, closed=True)[:, 0]
    wanted = set(map(tuple, curve.tolist()))
    return np.array([tuple(point) in wanted for point in outline.tolist()])
