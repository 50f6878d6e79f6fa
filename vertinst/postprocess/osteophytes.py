"""Osteophytes: bone that stands out at the corners of a body."""

from __future__ import annotations

import cv2
import numpy as np

from vertinst.postprocess.contours import Points, opened
from vertinst.structures import Rle, rle
from vertinst.structures.measures import CORNERS, Osteophyte

__all__ = ["find_osteophytes"]

DISC = 0.25
"""Radius of the opening's disc, as a share of the body's height."""
NEAR = 0.3
"""Furthest that an osteophyte's centre lies from its corner, as a share of the body's height."""
LEAST = 0.02
"""Least area, as a share of the height's square."""
CORNER_SHARE = 1 - np.pi / 4
"""A disc of radius r leaves this share of r^2 of a right-angled corner that has no osteophyte."""


def find_osteophytes(mask: Rle, corners: Points) -> tuple[Osteophyte, ...]:
    """Osteophytes of a body: the parts of its mask near a corner that an erosion and a dilation do not give back.

    The mask minus its morphological opening by a disc (Serra 1982, Image Analysis and Mathematical Morphology; the top
    hat). Of a right-angled corner without an osteophyte the disc leaves out 0.21 r^2 as well: that much is subtracted.

    Args:
        mask: RLE of the vertebra.
        corners: (4, 2) xy px in the order of `CORNERS`, from `find_corners`.

    Returns:
        At most one a corner, in the order of `CORNERS`. None for an empty mask.
    """
    patch, left, top = rle.decode_crop(mask)
    height = float(np.linalg.norm(corners[:2] - corners[:1:-1], axis=1).mean())
    if not patch.size or not np.isfinite(height) or height <= 0:
        return ()
    framed = np.asarray(cv2.copyMakeBorder(patch.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0), np.uint8)
    rest = framed & (1 - opened(framed, DISC * height))
    _, _, facts, centres = cv2.connectedComponentsWithStats(rest, connectivity=8)
    places = centres[1:] + np.array([left, top]) - 0.5
    found = []
    for name, corner in zip(CORNERS, corners, strict=True):
        reach = np.linalg.norm(places - corner, axis=1)
        for index in np.flatnonzero(reach < NEAR * height):
            area = float(facts[1 + index, cv2.CC_STAT_AREA]) - CORNER_SHARE * (DISC * height) ** 2
            if area > LEAST * height**2:
                found.append(Osteophyte(name, area, (float(places[index, 0]), float(places[index, 1]))))
                break
    return tuple(found)
