"""Hausdorff distance: how far contours lie apart, in pixels."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from vertinst.metrics._patches import Patches, cut_out
from vertinst.structures import Rle

__all__ = ["PERCENTILE", "hausdorff_px", "patch_hausdorff_px"]

PERCENTILE = 95.0

_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)).astype(np.uint8)


def hausdorff_px(truth: Rle, predicted: Rle, *, percentile: float = PERCENTILE) -> float | None:
    """Percentile of the Hausdorff distance between two contours: HD95 by default.

    The contour of a mask are its pixels with a neighbour above, below, left or right that does not belong to it, those
    of holes included; beyond the film nothing belongs to it, so where the film cuts the mask, the contour follows the
    film's edge. From the middle of each pixel of one contour to the nearest of the other, Euclidean distances are
    taken, and of these the percentile (between two of them linearly, as `numpy.percentile`); so in both directions.
    The result is the larger of the two: the definition of Metrics Reloaded (Maier-Hein et al. 2024,
    doi 10.1038/s41592-023-02151-z) and of MONAI. The other one in use, MedPy's, pools the distances of both directions
    before it takes the percentile, which lets a long contour that is right outweigh a short one that strays.

    Args:
        truth: RLE.
        predicted: RLE of the same size.
        percentile: 0..100; 100 gives the Hausdorff distance itself.

    Returns:
        px, at least 0; 0 for equal masks; None where one or both are empty, for there is no distance then.

    Raises:
        DataError: The sizes differ.
    """
    return patch_hausdorff_px(cut_out(truth, predicted), percentile=percentile)


def patch_hausdorff_px(patches: Patches, *, percentile: float = PERCENTILE) -> float | None:
    """`hausdorff_px` of masks that were cut out already."""
    truth, predicted = (_contour(mask) for mask in (patches.truth, patches.predicted))
    if not truth.any() or not predicted.any():
        return None
    return max(_directed(truth, predicted, percentile), _directed(predicted, truth, percentile))


def _contour(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    # The margin of the patch stands for everything outside.
    return mask - cv2.erode(mask, _CROSS).astype(np.uint8, copy=False)


def _directed(start: npt.NDArray[np.uint8], end: npt.NDArray[np.uint8], percentile: float) -> float:
    # Exact, other than OpenCV's faster masks of 3 and 5 pixels.
    distances = cv2.distanceTransform(1 - end, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return float(np.percentile(distances[start > 0].astype(np.float64), percentile))
