"""Pixel accuracy."""

from __future__ import annotations

from vertinst.metrics.confusion import Confusion

__all__ = ["pixel_accuracy"]


def pixel_accuracy(confusion: Confusion) -> float | None:
    """Share of pixels whose class is right: sum_i n_ii / sum_i t_i.

    Source: Long, Shelhamer, Darrell 2015, doi 10.1109/CVPR.2015.7298965, section 5.

    Args:
        confusion: (C, C), background included.

    Returns:
        0..1; None where no pixel was counted.
    """
    total = int(confusion.sum())
    return float(confusion.trace()) / total if total else None
