"""Confusion matrices of masks, counted on runs: no pixel is ever looked at."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from vertinst.errors import DataError
from vertinst.structures import Rle, rle

__all__ = ["Confusion", "binary_confusion"]

Confusion: TypeAlias = npt.NDArray[np.int64]
"""(C, C) pixel counts; element [i, j]: pixels of true class i predicted as class j (n_ij in Long et al. 2015)."""


def binary_confusion(truth: Rle, predicted: Rle, *, ignore: Rle | None = None) -> Confusion:
    """Count the pixels of two binary masks.

    Args:
        truth: RLE.
        predicted: RLE of the same size.
        ignore: RLE of the same size; its pixels are counted nowhere, whatever the masks say there.

    Returns:
        (2, 2) int64, classes background and object: [[TN, FP], [FN, TP]]. Zeros where everything is ignored.

    Raises:
        DataError: The sizes differ.
    """
    sizes = [tuple(m["size"]) for m in (truth, predicted, ignore) if m is not None]
    if len(set(sizes)) > 1:
        raise DataError(f"masks must have one size, got {sizes}", fix="Check that they belong to the same film.")
    total = int(truth["size"][0]) * int(truth["size"][1])
    if ignore is not None:
        counted = rle.complement(ignore)
        truth, predicted = rle.intersection(truth, counted), rle.intersection(predicted, counted)
        total -= rle.area(ignore)
    true_positive = rle.area(rle.intersection(truth, predicted))
    false_positive = rle.area(predicted) - true_positive
    false_negative = rle.area(truth) - true_positive
    true_negative = total - true_positive - false_positive - false_negative
    return np.array([[true_negative, false_positive], [false_negative, true_positive]], dtype=np.int64)
