"""Mean intersection over union."""

from __future__ import annotations

import numpy as np

from vertinst.metrics.confusion import Confusion

__all__ = ["mean_iou"]


def mean_iou(confusion: Confusion) -> float | None:
    """Mean over the classes of intersection over union: (1 / C) sum_i n_ii / (t_i + sum_j n_ji - n_ii).

    Source: Long, Shelhamer, Darrell 2015, doi 10.1109/CVPR.2015.7298965, section 5. The paper does not treat absent
    classes. Here: a class that is neither in the truth nor predicted is left out of the mean; one that is predicted
    without being in the truth counts 0. So an empty truth with an empty prediction gives the IoU of the background.

    Args:
        confusion: (C, C), background included.

    Returns:
        0..1; None where no pixel was counted.
    """
    shared = confusion.diagonal()
    union = confusion.sum(axis=1) + confusion.sum(axis=0) - shared
    present = union > 0
    return float(np.mean(shared[present] / union[present])) if present.any() else None
