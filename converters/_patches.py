"""Masks that are stored as a patch of the film and the place of its corner."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vertinst.structures import rle as rle_masks
from vertinst.structures.rle import Rle

__all__ = ["place_patch"]


def place_patch(
    patch: npt.NDArray[np.bool_], left: int, top: int, image_size: tuple[int, int]
) -> tuple[Rle | None, bool]:
    """Mask of the film that a patch gives.

    Args:
        patch: (h, w) bool.
        left: Column of its first column; the patch may leave the film on any side.
        top: Row of its first row.
        image_size: (height, width) px of the film.

    Returns:
        The mask, None if nothing of it lies on the film, and whether some of it lies outside.
    """
    height, width = image_size
    rows, columns = slice(max(0, -top), max(0, height - top)), slice(max(0, -left), max(0, width - left))
    inner = patch[rows, columns]
    if not inner.any():
        return None, False
    return rle_masks.paste(inner, max(0, top), max(0, left), image_size), bool(inner.sum() != patch.sum())
