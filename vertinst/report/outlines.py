"""Vertebrae as shapes that a page draws over the film, each with a point inside of it."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from vertinst.structures import Rle, Spine, rle

__all__ = ["Shape", "inner_point", "vertebra_shapes"]

# Of the longer side of the film: less than a pixel of the pictures that pages show.
_TOLERANCE = 0.0006


class Shape(NamedTuple):
    """A vertebra on a page.

    Attributes:
        level: Its name.
        category: Its class.
        path: SVG path in px of the film.
        x: Of a point in it, px.
        y: Of a point in it, px.
    """

    level: str
    category: str
    path: str
    x: float
    y: float


def vertebra_shapes(spine: Spine) -> list[Shape]:
    """Shapes of a spine's vertebrae in their order; those with an empty mask are left out."""
    tolerance = _TOLERANCE * max(spine.image_size)
    return [
        Shape(v.level, v.category, _path(v.mask, tolerance), *inner_point(v.mask))
        for v in spine.vertebrae
        if rle.area(v.mask)
    ]


def inner_point(mask: Rle) -> tuple[float, float]:
    """The point xy px of a mask that is farthest from its edge, the centre of a pixel; of several the first by rows.

    Args:
        mask: Not empty.
    """
    inside, left, top = rle.decode_crop(mask)
    # A border around it: the edge of the film is an edge.
    patch = np.pad(inside.astype(np.uint8), 1)
    depth = cv2.distanceTransform(patch, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(left + column - 0.5), float(top + row - 0.5)


def _path(mask: Rle, tolerance: float) -> str:
    rings = [ring for part in rle.rle_to_polygons(mask) for ring in (part.exterior, *part.holes)]
    drawn = (cv2.approxPolyDP(ring.astype(np.float32), tolerance, closed=True)[:, 0] for ring in rings)
    return "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in ring) + "Z" for ring in drawn)
