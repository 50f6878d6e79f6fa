"""Mean accuracy."""

from __future__ import annotations

import numpy as np

from vertinst.metrics.confusion import Confusion

__all__ = ["mean_accuracy"]


def mean_accuracy(confusion: Confusion) -> float | None:
    """Mean over the classes of the share of each class's true pixels that were found: (1 / C) sum_i n_ii / t_i.

    Source: Long, Shelhamer, Darrell 2015, doi 10.1109/CVPR.2015.7298965, section 5. The paper does not treat absent
    classes. Here: a class that is neither in the truth nor predicted is left out of the mean; one that is predicted
    without being in the truth counts 0.

    Args:
        confusion: (C, C), background included.

    Returns:
        0..1; None where no pixel was counted.
    """
    truth, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    present = (truth + predicted) > 0
    if not present.any():
        return None
    return float((confusion.diagonal()[present] / np.maximum(truth[present], 1)).mean())
