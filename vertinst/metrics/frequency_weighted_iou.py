"""Frequency-weighted intersection over union."""

from __future__ import annotations

import numpy as np

from vertinst.metrics.confusion import Confusion

__all__ = ["frequency_weighted_iou"]


def frequency_weighted_iou(confusion: Confusion) -> float | None:
    """IoU of the classes weighted by their true pixels: (sum_k t_k)^-1 sum_i t_i n_ii / (t_i + sum_j n_ji - n_ii).

    Source: Long, Shelhamer, Darrell 2015, doi 10.1109/CVPR.2015.7298965, section 5. A class without true pixels has
    weight 0 of itself.

    Args:
        confusion: (C, C), background included.

    Returns:
        0..1; None where no pixel was counted.
    """
    truth = confusion.sum(axis=1)
    shared = confusion.diagonal()
    union = truth + confusion.sum(axis=0) - shared
    total = int(truth.sum())
    return float((truth * shared / np.maximum(union, 1)).sum()) / total if total else None
