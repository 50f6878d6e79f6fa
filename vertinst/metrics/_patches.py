"""Two masks of one film cut out together, so that metrics of contours work on patches and not on films."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vertinst.errors import DataError
from vertinst.structures import Rle, rle

__all__ = ["Patches", "cut_out"]


class Patches(NamedTuple):
    """A truth and a prediction in one frame, which holds all of both and a margin of one pixel of background.

    What lies beyond the film is background, so a mask that the film cuts has its contour along the film's edge.

    Attributes:
        truth: (h, w) uint8, 1 inside.
        predicted: (h, w) uint8, 1 inside.
        image_size: (height, width) px of the film.
    """

    truth: npt.NDArray[np.uint8]
    predicted: npt.NDArray[np.uint8]
    image_size: tuple[int, int]


def cut_out(truth: Rle, predicted: Rle) -> Patches:
    """Cut out what two masks cover. Of two empty ones, the margin alone is left: (2, 2) of background.

    Raises:
        DataError: The masks are of two sizes.
    """
    height, width = (int(v) for v in truth["size"])
    if (height, width) != tuple(predicted["size"]):
        sizes = [(height, width), tuple(predicted["size"])]
        raise DataError(f"masks must have one size, got {sizes}", fix="Check that they belong to the same film.")
    crops = [rle.decode_crop(mask) for mask in (truth, predicted)]
    filled = [crop for crop in crops if crop[0].size]
    left = min((x for _, x, _ in filled), default=0)
    top = min((y for _, _, y in filled), default=0)
    right = max((x + patch.shape[1] for patch, x, _ in filled), default=0)
    bottom = max((y + patch.shape[0] for patch, _, y in filled), default=0)
    frames = np.zeros((2, bottom - top + 2, right - left + 2), dtype=np.uint8)
    for frame, (patch, x, y) in zip(frames, crops, strict=True):
        rows, columns = patch.shape
        frame[y - top + 1 :, x - left + 1 :][:rows, :columns] = patch
    return Patches(frames[0], frames[1], (height, width))
