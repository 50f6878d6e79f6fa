"""Boundary IoU: how well contours agree, whatever the size of what they enclose."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from vertinst.metrics._patches import Patches, cut_out
from vertinst.structures import Rle

__all__ = ["WIDTH", "band_px", "boundary_iou", "patch_boundary_iou"]

WIDTH = 0.02
"""Width of the band as a share of the film's diagonal: the paper's."""

_SQUARE = np.ones((3, 3), dtype=np.uint8)


def boundary_iou(truth: Rle, predicted: Rle, *, width: float = WIDTH) -> float | None:
    """Intersection over union of the bands along the contours, inside of the masks.

    Source: Cheng et al. 2021, arXiv 2103.16562, section 4: |(G_d & G) & (P_d & P)| / |(G_d & G) | (P_d & P)|, where
    X_d are the pixels within d of the contour of X. The paper leaves the distance open; as in its authors' evaluation
    of COCO it is the chessboard distance here: a pixel of a mask lies in the band if the square of 2 d + 1 pixels
    around it holds a pixel outside of the mask, where everything beyond the film is outside. d is `width` times the
    film's diagonal, rounded, at least 1 px (`band_px`).

    A mask nowhere thicker than 2 d is a band as a whole, and its boundary IoU is its IoU. On films of 1024 x 768 px
    d is 26 px: vertebrae are about three times as thick. Smaller widths judge contours more sharply.

    Args:
        truth: RLE.
        predicted: RLE of the same size.
        width: Share of the diagonal, above 0.

    Returns:
        0..1; 1 for equal masks; 0 where one of them is empty; None where both are.

    Raises:
        DataError: The sizes differ.
    """
    return patch_boundary_iou(cut_out(truth, predicted), width=width)


def patch_boundary_iou(patches: Patches, *, width: float = WIDTH) -> float | None:
    """`boundary_iou` of masks that were cut out already."""
    distance = band_px(patches.image_size, width)
    bands = [_band(mask, distance) for mask in (patches.truth, patches.predicted)]
    union = cv2.countNonZero(bands[0] | bands[1])
    return cv2.countNonZero(bands[0] & bands[1]) / union if union else None


def band_px(image_size: tuple[int, int], width: float = WIDTH) -> int:
    """Width of the band in pixels, at least 1: `width` times the diagonal of (height, width), rounded half to even."""
    return max(1, round(width * math.hypot(*image_size)))


def _band(mask: npt.NDArray[np.uint8], distance: int) -> npt.NDArray[np.uint8]:
    # Half of the shorter side leaves nothing inside; more would only take time.
    steps = min(distance, (min(mask.shape) + 1) // 2)
    return mask - cv2.erode(mask, _SQUARE, iterations=steps).astype(np.uint8, copy=False)
